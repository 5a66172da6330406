//! URLs of PostgreSQL and Redis: they hold passwords, so they are shown without them.

use std::fmt;

use tokio_postgres::config::Host;
use url::Url;

use super::Secret;
use super::reader::Fault;

/// Where PostgreSQL is and how to sign in. Prints without the password.
#[derive(Clone, Default)]
pub struct DatabaseUrl {
    url: Secret<String>,
    shown: String,
}

impl DatabaseUrl {
    /// The whole URL with the password, for the driver. Empty when the command does not need it.
    pub fn expose(&self) -> &str {
        self.url.expose()
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Understands what libpq and the driver do: `postgres://…` and `host=… user=…`.
pub fn database_url(text: &str) -> Result<DatabaseUrl, Fault> {
    let remedy = "write postgres://user:password@host:port/name, with other signs in the password as %XX";
    // The driver's reason is left out: it can quote a part of the password.
    let config: tokio_postgres::Config =
        text.parse().map_err(|_| Fault::new("is not a PostgreSQL URL", remedy))?;
    if config.get_hosts().is_empty() {
        return Err(Fault::new("names no host", remedy));
    }
    // An @ or / that was not written as %XX ends the password early: its rest would pass for the host
    // or the database, and be printed.
    let odd_host = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
    let odd_name = config.get_dbname().is_some_and(|name| name.contains(['@', '/']));
    if odd_name || config.get_hosts().iter().any(odd_host) {
        return Err(Fault::new("has an @ or / in an unexpected place", remedy));
    }
    Ok(DatabaseUrl { url: Secret::new(text.to_owned()), shown: without_password(&config) })
}

fn without_password(config: &tokio_postgres::Config) -> String {
    let ports = config.get_ports();
    let host = |(index, host): (usize, &Host)| {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            #[cfg(unix)]
            Host::Unix(path) => format!("{}:{port}", path.display()),
        }
    };
    let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
    let name = config.get_dbname().map(|name| format!("/{name}")).unwrap_or_default();
    format!("postgres://{user}{}{name}", hosts.join(","))
}

/// Where Redis is: one server, or the nodes of a cluster. Prints without user names and passwords.
///
/// Has no server when loaded for a command that does not need Redis.
#[derive(Clone, Default)]
pub struct RedisUrl(Vec<RedisServer>);

#[derive(Clone)]
struct RedisServer {
    url: Secret<String>,
    shown: String,
}

impl RedisUrl {
    /// The URL of each server with its password, for the driver.
    pub fn expose(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|server| server.url.expose().as_str())
    }

    /// Whether this is a list: the nodes of a cluster.
    pub fn is_cluster(&self) -> bool {
        self.0.len() > 1
    }

    /// Another database of the same server; of a cluster, which has none, the same cluster.
    pub(super) fn with_database(&self, database: u8) -> Self {
        let [server] = self.0.as_slice() else { return self.clone() };
        let Ok(mut url) = Url::parse(server.url.expose()) else { return self.clone() };
        if is_socket(&url) {
            let others: Vec<(String, String)> =
                url.query_pairs().filter(|(name, _)| name != "db").map(|pair| owned(&pair)).collect();
            url.query_pairs_mut().clear().extend_pairs(others).append_pair("db", &database.to_string());
        } else {
            url.set_path(&database.to_string());
        }
        RedisUrl(vec![RedisServer::new(&url)])
    }
}

impl RedisServer {
    fn new(url: &Url) -> Self {
        RedisServer { url: Secret::new(url.to_string()), shown: without_credentials(url) }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<&str> = self.0.iter().map(|server| server.shown.as_str()).collect();
        f.write_str(&shown.join(","))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One URL, or the nodes of a cluster separated by commas.
pub fn redis_url(text: &str) -> Result<RedisUrl, Fault> {
    let remedy = "write redis://host:port/database, rediss:// for TLS, unix:///path?db=0, or the nodes of a \
                  cluster as a comma-separated list of URLs without a database";
    let parse = |text| redis_server(text).map_err(|what| Fault::new(what, remedy));
    let urls = text.split(',').map(str::trim).map(parse).collect::<Result<Vec<Url>, Fault>>()?;
    let has_database = |url: &Url| is_socket(url) || !matches!(url.path(), "" | "/" | "/0");
    if urls.len() > 1 && urls.iter().any(has_database) {
        return Err(Fault::new("lists a node with a socket or database, which clusters don't have", remedy));
    }
    Ok(RedisUrl(urls.iter().map(RedisServer::new).collect()))
}

fn redis_server(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "is not a Redis URL")?;
    if text.contains('@') && !is_socket(&url) && url.username().is_empty() && url.password().is_none() {
        return Err("has a sign in its password that must be written as %XX");
    }
    let database = match url.scheme() {
        "redis" | "rediss" if url.host_str().is_none_or(str::is_empty) => return Err("names no host"),
        "redis" | "rediss" => url.path().trim_start_matches('/').to_owned(),
        "unix" | "redis+unix" if url.path().len() < 2 => return Err("names no socket"),
        "unix" | "redis+unix" => query(&url, "db").unwrap_or_default(),
        _ => return Err("does not begin with redis://, rediss://, unix:// or redis+unix://"),
    };
    if !database.is_empty() && database.parse::<u16>().is_err() {
        return Err("names a database that is not a number");
    }
    Ok(url)
}

fn without_credentials(url: &Url) -> String {
    if is_socket(url) {
        let database = query(url, "db").map(|database| format!("?db={database}")).unwrap_or_default();
        return format!("{}://{}{database}", url.scheme(), url.path());
    }
    let credentials = if url.username().is_empty() && url.password().is_none() { "" } else { "***@" };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{credentials}{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

fn is_socket(url: &Url) -> bool {
    url.scheme().ends_with("unix")
}

fn query(url: &Url, wanted: &str) -> Option<String> {
    url.query_pairs().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}

fn owned((name, value): &(std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)) -> (String, String) {
    (name.to_string(), value.to_string())
}
