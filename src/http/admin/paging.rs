//! Lists that are read page by page: `?limit=…&cursor=…`.

use std::future::{Ready, ready};
use std::str::FromStr;

use actix_web::dev::Payload;
use actix_web::web::Query;
use actix_web::{FromRequest, HttpRequest};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::http::problem::Problem;

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 200;

/// Which part of a list is asked for; its items have ids of this type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<Id = Uuid> {
    limit: usize,
    /// The last item of the page before.
    pub after: Option<Id>,
}

/// A page of a list.
#[derive(Debug, Serialize)]
pub struct Listed<T, Id = Uuid> {
    pub items: Vec<T>,
    /// What to send as `cursor` for the next page; null after the last one.
    pub next: Option<Id>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    limit: Option<String>,
    #[serde(alias = "after")]
    cursor: Option<String>,
}

impl<Id: FromStr> Page<Id> {
    fn parse(query: &str) -> Result<Page<Id>, Problem> {
        let Ok(Query(asked)) = Query::<Asked>::from_query(query) else {
            return Err(Problem::bad_request("Only `limit` and `cursor` are understood, each at most once."));
        };
        Page::of(asked.limit, asked.cursor)
    }

    /// The part of a list that these parameters ask for.
    ///
    /// # Errors
    /// [`Problem`] 400 when one of them can't be read.
    pub fn of(limit: Option<String>, cursor: Option<String>) -> Result<Page<Id>, Problem> {
        let limit = limit.map_or(Ok(LIMIT_DEFAULT), |limit| limit.parse().map_err(|_| ()));
        let limit = limit.ok().filter(|limit| (1..=LIMIT_MAX).contains(limit)).ok_or_else(|| {
            Problem::bad_request(format!("`limit` has to be a whole number from 1 to {LIMIT_MAX}."))
        })?;
        let after = cursor.filter(|cursor| !cursor.is_empty()).map(|cursor| cursor.parse());
        let after = after
            .transpose()
            .map_err(|_| Problem::bad_request("`cursor` has to be what the page before gave as `next`."))?;
        Ok(Page { limit, after })
    }

    /// How many items to fetch: one more than are shown tells whether there is a next page.
    pub fn fetch(&self) -> i64 {
        self.limit as i64 + 1
    }

    /// Takes the item too many away again, and says where the next page begins.
    pub fn cut<T>(&self, mut items: Vec<T>, id: impl Fn(&T) -> Id) -> (Vec<T>, Option<Id>) {
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let next = items.last().map(id).filter(|_| more);
        (items, next)
    }
}

impl<Id: FromStr> FromRequest for Page<Id> {
    type Error = Problem;
    type Future = Ready<Result<Page<Id>, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Page::parse(request.query_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_cursors_are_understood_or_refused() {
        let page = |limit, after| Page { limit, after };
        let id = Uuid::now_v7();
        assert_eq!(Page::parse("").unwrap(), page(LIMIT_DEFAULT, None));
        assert_eq!(Page::parse("limit=1&after=").unwrap(), page(1, None));
        assert_eq!(Page::parse(&format!("after={id}&limit=200")).unwrap(), page(200, Some(id)));
        for wrong in ["limit=0", "limit=201", "limit=-1", "limit=x", "limit=", "after=x", "limit=1&limit=2"] {
            assert!(Page::<Uuid>::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn there_is_a_next_page_only_when_something_is_left() {
        let page = Page { limit: 2, after: None };
        let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
        assert_eq!(page.cut(ids.clone(), |id| *id), (ids[..2].to_vec(), Some(ids[1])));
        assert_eq!(page.cut(ids[..2].to_vec(), |id| *id), (ids[..2].to_vec(), None));
        assert_eq!(page.cut(Vec::new(), |id: &Uuid| *id), (Vec::new(), None));
        assert_eq!(page.fetch(), 3);
    }
}
