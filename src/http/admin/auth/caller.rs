//! Who asks, from where, and what they may. A handler names the right it needs in the type of what it takes, so none
//! can forget to ask for it.

use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::net::IpAddr;
use std::ops::Deref;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use uuid::Uuid;

use super::guard::unauthorized;
use crate::domain::operator::{Action, Operator, Role, may};
use crate::http::client_address::client_address;
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use crate::http::state::State;
use crate::security::access_token::Stage;

/// The problem of who has to change a one-time password first.
const PASSWORD_CHANGE_REQUIRED: &str = "/problems/password-change-required";
/// The problem of who has to enrol a second factor first.
const ENROLMENT_REQUIRED: &str = "/problems/enrolment-required";

/// Where a request comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    pub address: IpAddr,
    pub request_id: RequestId,
}

/// Who was let in.
#[derive(Clone, Debug)]
pub struct Caller {
    pub origin: Origin,
    /// None: by the bootstrap token.
    pub account: Option<Account>,
}

/// An operator who is signed in.
#[derive(Clone, Debug)]
pub struct Account {
    /// As PostgreSQL knows them now: a role that was taken away is gone at once.
    pub operator: Operator,
    pub stage: Stage,
    /// Of the access token.
    pub jti: Uuid,
    /// Of the refresh tokens that the access token came with.
    pub family: Uuid,
    /// When the access token ends, in Unix seconds.
    pub expires_at: i64,
}

impl Origin {
    /// Where `request` comes from.
    pub fn of(request: &HttpRequest, state: &State) -> Origin {
        let request_id = request.extensions().get::<RequestId>().cloned();
        Origin {
            address: client_address(request, &state.settings.http.trusted_proxies),
            request_id: request_id.unwrap_or_else(RequestId::generate),
        }
    }
}

impl Caller {
    /// The bootstrap token acts as an owner.
    pub fn role(&self) -> Role {
        self.account.as_ref().map_or(Role::Owner, |account| account.operator.role)
    }

    /// Refuses what the caller may not, now or at all.
    fn check(&self, action: Action) -> Result<(), Problem> {
        match self.account.as_ref().map_or(Stage::Full, |account| account.stage) {
            Stage::Password => {
                let detail = "Change your one-time password first, by `POST /admin/api/v1/auth/password`.";
                return Err(Problem::new(StatusCode::FORBIDDEN, detail).of_type(PASSWORD_CHANGE_REQUIRED));
            }
            Stage::Enrol => {
                let detail = "Enrol a second factor first, by `POST /admin/api/v1/auth/mfa`.";
                return Err(Problem::new(StatusCode::FORBIDDEN, detail).of_type(ENROLMENT_REQUIRED));
            }
            Stage::Full => {}
        }
        if may(self.role(), action) {
            return Ok(());
        }
        let detail = format!("The role {} does not allow this. Ask an owner.", self.role().name());
        Err(Problem::new(StatusCode::FORBIDDEN, detail))
    }
}

/// What a handler may need.
pub trait Right {
    const ACTION: Action;
}

/// Reading what is going on.
#[derive(Debug)]
pub struct Look;
/// Changing streamers, their sessions and their votes.
#[derive(Debug)]
pub struct Steer;
/// Making and changing operators' accounts.
#[derive(Debug)]
pub struct ManageOperators;
/// Reading who did what.
#[derive(Debug)]
pub struct ReadSecurityLog;

impl Right for Look {
    const ACTION: Action = Action::Look;
}

impl Right for Steer {
    const ACTION: Action = Action::Steer;
}

impl Right for ManageOperators {
    const ACTION: Action = Action::ManageOperators;
}

impl Right for ReadSecurityLog {
    const ACTION: Action = Action::ReadSecurityLog;
}

/// A caller who has this right. Stands first among what a handler takes, so that nothing is said before of what was
/// sent.
#[derive(Debug)]
pub struct May<R>(Caller, PhantomData<R>);

impl<R> Deref for May<R> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl<R: Right> FromRequest for May<R> {
    type Error = Problem;
    type Future = Ready<Result<May<R>, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let caller = let_in(request);
        ready(caller.and_then(|caller| caller.check(R::ACTION).map(|()| May(caller, PhantomData))))
    }
}

impl FromRequest for Account {
    type Error = Problem;
    type Future = Ready<Result<Account, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let detail = "The bootstrap token has no account. Make one by `POST /admin/api/v1/operators`.";
        let account = let_in(request)
            .and_then(|caller| caller.account.ok_or_else(|| Problem::new(StatusCode::FORBIDDEN, detail)));
        ready(account)
    }
}

impl FromRequest for Origin {
    type Error = Problem;
    type Future = Ready<Result<Origin, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let state = request.app_data::<Data<State>>();
        let origin = state.map(|state| Origin::of(request, state));
        ready(origin.ok_or_else(|| Problem::internal("a request without the shared state")))
    }
}

/// Whom the guard let in with this request.
fn let_in(request: &HttpRequest) -> Result<Caller, Problem> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| unauthorized("Sign in first."))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use actix_web::ResponseError;

    use super::*;

    fn caller(role: Role, stage: Stage) -> Caller {
        let operator = Operator {
            id: Uuid::from_u128(1),
            email: "ada@example.com".into(),
            role,
            disabled: false,
            must_change_password: false,
            mfa_enrolled: true,
            version: 1,
        };
        let (jti, family) = (Uuid::from_u128(2), Uuid::from_u128(3));
        let account = Account { operator, stage, jti, family, expires_at: 0 };
        Caller { account: Some(account), ..bootstrap() }
    }

    fn bootstrap() -> Caller {
        let origin = Origin { address: Ipv4Addr::LOCALHOST.into(), request_id: RequestId::generate() };
        Caller { origin, account: None }
    }

    fn status(caller: &Caller, action: Action) -> u16 {
        caller.check(action).err().map_or(200, |problem| problem.status_code().as_u16())
    }

    #[test]
    fn a_role_may_what_it_may_and_no_more() {
        let [viewer, admin, owner] =
            [Role::Viewer, Role::Admin, Role::Owner].map(|role| caller(role, Stage::Full));
        let statuses = |action| [&viewer, &admin, &owner].map(|caller| status(caller, action));
        assert_eq!(statuses(Action::Look), [200, 200, 200]);
        assert_eq!(statuses(Action::Steer), [403, 200, 200]);
        assert_eq!(statuses(Action::ReadSecurityLog), [403, 200, 200]);
        assert_eq!(statuses(Action::ManageOperators), [403, 403, 200]);
        assert_eq!(statuses(Action::Maintain), [403, 403, 200]);
    }

    #[test]
    fn an_unfinished_sign_in_may_nothing_whatever_the_role() {
        for stage in [Stage::Password, Stage::Enrol] {
            assert_eq!(status(&caller(Role::Owner, stage), Action::Look), 403);
        }
    }

    #[test]
    fn the_bootstrap_token_acts_as_an_owner() {
        assert_eq!(status(&bootstrap(), Action::ManageOperators), 200);
    }
}
