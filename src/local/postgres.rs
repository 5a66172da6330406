//! The private PostgreSQL: made once, with passwords, the loopback only and its durable defaults untouched.

use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};

use tokio::process::Command;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::error::LocalError;
use super::home::remove;
use super::private::write_secret;
use super::server::{Kind, Site};

const SUPERUSER: &str = "postgres";
const OWNER: &str = "chatpulse_owner";
const APP: &str = "chatpulse_app";
const DATABASE: &str = "chatpulse";
const CONNECTIONS_MAX: u32 = 200;
/// The one that every system has: texts compare by code point, and their characters are Unicode's.
const LOCALE: &str = if cfg!(target_os = "macos") { "C" } else { "C.UTF-8" };

/// The major version that made the data in `folder`, if there is any.
pub(super) fn made_by(folder: &Path) -> Option<u32> {
    std::fs::read_to_string(folder.join("PG_VERSION")).ok()?.trim().parse().ok()
}

/// Makes the data with `initdb`, beside its place and then moved there, so that it is whole or missing.
pub(super) async fn make(site: &Site) -> Result<(), LocalError> {
    let folder = site.home.folder(Kind::Postgres);
    let new = folder.with_extension("new");
    let password = folder.with_extension("password");
    remove(&new)?;
    site.home.make_folder(&new)?;
    write_secret(&password, site.private.superuser_password.as_bytes())
        .map_err(|source| LocalError::path(&password, source))?;
    site.home.account.own(&password)?;
    let made = initdb(site, &new, &password).await;
    remove(&password)?;
    if made.is_err() {
        // What went wrong first is told; a rest that stays is removed before the next try.
        remove(&new).ok();
        return made;
    }
    std::fs::rename(&new, &folder).map_err(|source| LocalError::path(&folder, source))
}

async fn initdb(site: &Site, folder: &Path, password: &Path) -> Result<(), LocalError> {
    let log = site.home.log(Kind::Postgres);
    let output = std::fs::File::create(&log).and_then(|log| Ok((log.try_clone()?, log)));
    let (out, err) = output.map_err(|source| LocalError::path(&log, source))?;
    let program = site.postgres.program("initdb");
    let mut command = site.home.account.command(&program, folder);
    command.arg("--pgdata").arg(folder).arg("--pwfile").arg(password).arg(format!("--locale={LOCALE}"));
    command.args(["--username", SUPERUSER, "--auth=scram-sha-256", "--encoding=UTF8"]);
    command.arg("--no-instructions").stdout(Stdio::from(out)).stderr(Stdio::from(err)).kill_on_drop(true);
    if site.throwaway {
        command.arg("--no-sync");
    }
    let status = command.status().await.map_err(|source| LocalError::Run { program, source })?;
    if status.success() {
        return Ok(());
    }
    Err(LocalError::from_log(Kind::Postgres.name(), site.home.dir(), &log))
}

/// The server's command line. Nothing here touches fsync, synchronous_commit or full_page_writes.
pub(super) fn command(site: &Site) -> Command {
    let folder = site.home.folder(Kind::Postgres);
    let mut command = site.home.account.command(&site.postgres.program("postgres"), &folder);
    command.arg("-D").arg(&folder);
    let mut settings = vec![
        format!("port={}", site.private.port(Kind::Postgres)),
        "listen_addresses=127.0.0.1".to_owned(),
        "unix_socket_directories=".to_owned(),
        format!("max_connections={CONNECTIONS_MAX}"),
    ];
    if site.postgres.has_library("pg_stat_statements") {
        settings.push("shared_preload_libraries=pg_stat_statements".to_owned());
    }
    for setting in settings {
        command.arg("-c").arg(setting);
    }
    command
}

/// Whether the server lets the superuser in. Other passwords than ours are an error, all else is "not yet".
pub(super) async fn answers(site: &Site) -> Result<bool, LocalError> {
    match connect(site).await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::INVALID_PASSWORD) => {
            Err(LocalError::OtherPassword(site.home.named.clone()))
        }
        Err(_) => Ok(false),
    }
}

async fn connect(site: &Site) -> Result<Client, tokio_postgres::Error> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(site.private.port(Kind::Postgres)).dbname("postgres");
    config.user(SUPERUSER).password(&site.private.superuser_password);
    config.connect_timeout(std::time::Duration::from_secs(5));
    let (client, connection) = config.connect(NoTls).await?;
    // Ends with the client; its errors come out of the client's calls.
    tokio::spawn(connection);
    Ok(client)
}

/// Makes what is missing of the two roles and the database, and sets the passwords.
pub(super) async fn make_roles(site: &Site) -> Result<(), LocalError> {
    try_make_roles(site).await.map_err(LocalError::Roles)
}

async fn try_make_roles(site: &Site) -> Result<(), tokio_postgres::Error> {
    let client = connect(site).await?;
    let private = &site.private;
    for (role, rights, password) in
        [(OWNER, "LOGIN CREATEDB", &private.owner_password), (APP, "LOGIN", &private.app_password)]
    {
        let known = client.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&role]).await?;
        let verb = if known.is_some() { "ALTER" } else { "CREATE" };
        // The password is hexadecimal: nothing in it needs quoting.
        client.batch_execute(&format!("{verb} ROLE {role} {rights} PASSWORD '{password}'")).await?;
    }
    if client.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&DATABASE]).await?.is_none() {
        client.batch_execute(&format!("CREATE DATABASE {DATABASE} OWNER {OWNER}")).await?;
    }
    Ok(())
}

/// The URLs of the application's role, the owner and the superuser.
pub(super) fn urls(site: &Site) -> [String; 3] {
    let private = &site.private;
    let port = private.port(Kind::Postgres);
    [
        (APP, &private.app_password, DATABASE),
        (OWNER, &private.owner_password, DATABASE),
        (SUPERUSER, &private.superuser_password, "postgres"),
    ]
    .map(|(role, password, database)| format!("postgres://{role}:{password}@127.0.0.1:{port}/{database}"))
}

/// Ends the server: open connections are cut, and all is written out unless `at_once`.
pub(super) async fn end(site: &Site, at_once: bool) {
    let folder = site.home.folder(Kind::Postgres);
    let mut command = site.home.account.command(&site.postgres.program("pg_ctl"), &folder);
    command.args(["stop", "--silent", "--mode", if at_once { "immediate" } else { "fast" }]);
    command.arg("--pgdata").arg(&folder).stdout(Stdio::null()).stderr(Stdio::null());
    // Whether it has ended is seen by its process, by the one who asked.
    command.status().await.ok();
}

/// Ends a server left over from a keeper that was killed; tells whether there was one.
pub(super) async fn end_leftover(site: &Site) -> Result<bool, LocalError> {
    let folder = site.home.folder(Kind::Postgres);
    let pid_file = folder.join("postmaster.pid");
    let Ok(text) = std::fs::read_to_string(&pid_file) else { return Ok(false) };
    let pid = text.lines().next().unwrap_or_default();
    if command_line(pid).is_some_and(|line| line.contains(&*folder.to_string_lossy())) {
        end(site, false).await;
        return Ok(true);
    }
    // The machine went down and the number may be another process's by now: PostgreSQL would refuse to start.
    remove(&pid_file)?;
    Ok(false)
}

/// The command line of a running process.
fn command_line(pid: &str) -> Option<String> {
    pid.parse::<u32>().ok()?;
    let file = PathBuf::from("/proc").join(pid).join("cmdline");
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(_) => StdCommand::new("ps").args(["-o", "command=", "-p", pid]).output().ok()?.stdout,
    };
    Some(String::from_utf8_lossy(&text).into_owned())
}
