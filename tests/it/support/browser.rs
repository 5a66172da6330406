//! A headless Chromium with a profile of its own, driven by its WebDriver.

use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};
use url::{ParseError, Url};

use super::PATIENCE;

/// Browsers at a time: each keeps a processor core busy while it starts.
static PLACES: Semaphore = Semaphore::const_new(2);
/// Where chromedriver may be besides PATH.
const PLACES_OF_DRIVER: [&str; 6] = [
    "/usr/bin",
    "/usr/local/bin",
    "/usr/lib/chromium",
    "/usr/lib/chromium-browser",
    "/snap/bin",
    "/opt/homebrew/bin",
];
const STARTED: &str = "started successfully on port ";
/// Nothing of the real world, and nothing outside of the profile.
const FLAGS: [&str; 7] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A browser with one page. All of it ends when this is dropped, and also when this test process dies.
pub struct Browser {
    client: Client,
    // Dropped in this order: the place is free once everything has ended.
    driver: Driver,
    _place: SemaphorePermit<'static>,
}

impl Browser {
    /// The WebDriver client, for what has no method here.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits for a place and starts a browser in it.
    pub async fn start() -> Browser {
        let place = PLACES.acquire().await.expect("the semaphore is never closed");
        let driver = tokio::task::spawn_blocking(Driver::start).await.expect("chromedriver starts");
        let profile = driver.dir.path().join("profile");
        let flags: Vec<String> = FLAGS.map(str::to_owned).into_iter().collect();
        let flags = [flags, vec![format!("--user-data-dir={}", profile.display())]].concat();
        let capabilities = json!({
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            "goog:chromeOptions": { "args": flags },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("an object stands above") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{}", driver.port))
            .await
            .unwrap_or_else(|error| panic!("Chromium does not start; is it installed? {error}"));
        Browser { client, driver, _place: place }
    }

    /// Makes the page exactly this large, which no window size does: a window has a frame.
    pub async fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Runs `script` in every page opened from now on, before the page's own.
    pub async fn run_first(&self, script: &str) {
        self.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).await;
    }

    pub async fn open(&self, url: &str) {
        self.client.goto(url).await.expect("the page opens");
    }

    /// The value of an expression in the page.
    pub async fn eval(&self, expression: &str) -> Value {
        let answer = self.client.execute(&format!("return {expression}"), Vec::new()).await;
        answer.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// What was logged since the last call: by the page (`browser`), or of its network (`performance`).
    pub async fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.issue("se/log", json!({ "type": kind })).await;
        entries.as_array().cloned().expect("a log is a list")
    }

    /// The DevTools events of this kind since the log was last read, such as `Network.requestWillBeSent`.
    pub async fn events(&self, kinds: &[&str]) -> Vec<Value> {
        let message = |entry: &Value| {
            let text = entry["message"].as_str().expect("an entry has a message");
            serde_json::from_str::<Value>(text).expect("a message is JSON")["message"].clone()
        };
        let mut events: Vec<Value> = self.log("performance").await.iter().map(message).collect();
        events.retain(|event| kinds.iter().any(|kind| event["method"] == *kind));
        events
    }

    async fn devtools(&self, command: &str, parameters: Value) {
        self.issue("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await;
    }

    async fn issue(&self, path: &'static str, body: Value) -> Value {
        let answer = self.client.issue_cmd(Vendor { path, body }).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

/// A command that only chromedriver knows.
#[derive(Debug)]
struct Vendor {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Vendor {
    fn endpoint(&self, base_url: &Url, session_id: Option<&str>) -> Result<Url, ParseError> {
        base_url.join(&format!("session/{}/{}", session_id.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

/// A chromedriver that leads a process group, in which its Chromium is too.
struct Driver {
    port: u16,
    child: Child,
    /// Waits for the end of its standard input, then kills the group and, once nobody writes there any more,
    /// removes its directory.
    watchdog: Child,
    /// Home, temporary files and profile.
    dir: TempDir,
}

impl Driver {
    fn start() -> Driver {
        let dir = TempDir::with_prefix("chatpulse-browser-").expect("a directory can be made");
        let mut child = Command::new(program())
            .arg("--port=0")
            .env("HOME", dir.path())
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("chromedriver starts");
        let watchdog = Command::new("sh")
            .args(["-c", "read _; kill -s KILL -- \"-$0\"; sleep 1; rm -rf \"$1\"", &child.id().to_string()])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C reaches all of this test process's group, but neither chromedriver's nor this one.
            .process_group(0)
            .spawn()
            .expect("sh starts");
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut driver = Driver { port: 0, child, watchdog, dir };
        let (said, hear) = mpsc::channel();
        std::thread::spawn(move || {
            // Read to the end, so that chromedriver never waits for a reader.
            BufReader::new(stdout).lines().map_while(Result::ok).filter_map(|line| port(&line)).for_each(
                |port| {
                    // Err: nobody waits any more.
                    let _ = said.send(port);
                },
            );
        });
        driver.port = hear.recv_timeout(PATIENCE).expect("chromedriver says its port");
        driver
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Before the others, so that it never kills another group that got the same id.
        end(&mut self.watchdog);
        let group = self.child.id();
        // Err: it has ended already.
        let _ = Command::new("kill").args(["-s", "KILL", "--", &format!("-{group}")]).status();
        end(&mut self.child);
        // Whoever still runs would write into the directory again.
        let deadline = Instant::now() + PATIENCE;
        while runs(self.dir.path()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn end(child: &mut Child) {
    // Err: it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// Whether a process runs that was started with this directory for its temporary files. Its crash handlers
/// leave the group, and end by themselves when what they watch over does.
fn runs(dir: &Path) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    // Dead ones have no environment, those of others can't be read.
    let mut environments =
        processes.flatten().filter_map(|entry| std::fs::read(entry.path().join("environ")).ok());
    let variable = [b"TMPDIR=", dir.as_os_str().as_bytes()].concat();
    let has = |all: Vec<u8>| all.split(|byte| *byte == 0).any(|one| one == variable);
    environments.any(has)
}

fn port(line: &str) -> Option<u16> {
    line.split_once(STARTED)?.1.trim_end_matches('.').parse().ok()
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(PLACES_OF_DRIVER.map(PathBuf::from));
    let found = places.map(|place| place.join("chromedriver")).find(|program| Path::is_file(program));
    found.expect(
        "chromedriver is missing: install it (on Debian the package chromium-driver), or run `make test`",
    )
}

#[tokio::test]
async fn a_browser_leaves_nothing_behind() {
    let browser = Browser::start().await;
    let (group, dir) = (browser.driver.child.id(), browser.driver.dir.path().to_owned());
    assert!(dir.join("profile").is_dir() && runs(&dir));
    drop(browser);
    assert!(!dir.exists() && !runs(&dir));
    let left = Command::new("kill").args(["-0", &group.to_string()]).stderr(Stdio::null()).status();
    assert!(!left.expect("kill can be run").success(), "chromedriver has ended");
}
