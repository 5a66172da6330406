//! Finds the installed PostgreSQL and Redis.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::LocalError;

const POSTGRES_MAJOR_MIN: u32 = 15;
const REDIS_MAJOR_MIN: u32 = 7;
const POSTGRES_PROGRAMS: [&str; 3] = ["postgres", "initdb", "pg_ctl"];

/// Folders beside PATH in which systems keep PostgreSQL's server programs, each as the folder that holds the
/// versions, the beginning of their names and where their programs are.
const POSTGRES_PLACES: [(&str, &str, &str); 6] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
];

/// PostgreSQL's programs, all in one folder.
#[derive(Clone, Debug)]
pub(super) struct PostgresPrograms {
    bin: PathBuf,
    pub(super) version: Version,
}

impl PostgresPrograms {
    /// The newest PostgreSQL, or the one of the major version `made` that the data needs.
    pub(super) fn find(made: Option<u32>, data: &Path) -> Result<PostgresPrograms, LocalError> {
        let mut found: Vec<_> = postgres_folders().into_iter().filter_map(PostgresPrograms::at).collect();
        found.sort_by_key(|programs| programs.version.major);
        if let Some(made) = made {
            let same = found.into_iter().find(|programs| programs.version.major == made);
            return same.ok_or(LocalError::OtherMajor { dir: data.to_owned(), made });
        }
        let (what, package) = ("PostgreSQL", "the package postgresql");
        let newest = found.pop().ok_or(LocalError::Missing { what, package })?;
        newest.version.check(what, POSTGRES_MAJOR_MIN, package)?;
        Ok(newest)
    }

    fn at(bin: PathBuf) -> Option<PostgresPrograms> {
        if POSTGRES_PROGRAMS.iter().any(|program| !bin.join(program).is_file()) {
            return None;
        }
        let version = Version::of(&bin.join("postgres"))?;
        Some(PostgresPrograms { bin, version })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Whether the extension library `name` can be preloaded.
    pub(super) fn has_library(&self, name: &str) -> bool {
        let told = Command::new(self.program("pg_config")).arg("--pkglibdir").output().ok();
        let told = told.and_then(|output| String::from_utf8(output.stdout).ok());
        let folder = told.map_or_else(|| self.bin.join("../lib"), |text| PathBuf::from(text.trim()));
        ["so", "dylib"].iter().any(|ending| folder.join(name).with_extension(ending).is_file())
    }
}

/// The Redis server's program: Redis itself or Valkey, which continues its protocol and functions.
#[derive(Clone, Debug)]
pub(super) struct RedisProgram {
    pub(super) path: PathBuf,
    pub(super) version: Version,
}

impl RedisProgram {
    pub(super) fn find() -> Result<RedisProgram, LocalError> {
        let (what, package) = ("Redis", "the package redis");
        let mut too_old = None;
        for name in ["redis-server", "valkey-server"] {
            for path in
                folders_of_path().into_iter().map(|folder| folder.join(name)).filter(|path| path.is_file())
            {
                let Some(version) = Version::of(&path) else { continue };
                match version.check(what, REDIS_MAJOR_MIN, package) {
                    Ok(()) => return Ok(RedisProgram { path, version }),
                    Err(error) => too_old = Some(error),
                }
            }
        }
        Err(too_old.unwrap_or(LocalError::Missing { what, package }))
    }
}

/// A version as the program tells it, such as 15.14.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) text: String,
    pub(super) major: u32,
}

impl Version {
    fn of(program: &Path) -> Option<Version> {
        let output = Command::new(program).arg("--version").output().ok()?;
        Version::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Reads `postgres (PostgreSQL) 15.14 (Debian …)` and `Redis server v=7.0.15 sha=…`: the first word that
    /// begins with a digit, after an optional `v=`.
    fn parse(line: &str) -> Option<Version> {
        let words = line.split_whitespace().map(|word| word.trim_start_matches("v="));
        let text = words.into_iter().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
        let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(Version { text: text.to_owned(), major: digits.parse().ok()? })
    }

    fn check(&self, what: &'static str, needed: u32, package: &'static str) -> Result<(), LocalError> {
        if self.major >= needed {
            return Ok(());
        }
        Err(LocalError::TooOld { what, found: self.text.clone(), needed, package })
    }
}

fn postgres_folders() -> Vec<PathBuf> {
    let mut folders = folders_of_path();
    for (place, beginning, programs) in POSTGRES_PLACES {
        for version in std::fs::read_dir(place).into_iter().flatten().flatten() {
            if version.file_name().to_string_lossy().starts_with(beginning) {
                folders.push(version.path().join(programs));
            }
        }
    }
    folders
}

fn folders_of_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/opt/homebrew/bin"];
    std::env::split_paths(&path).chain(usual.map(PathBuf::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_programs_print_them() {
        for (line, text, major) in [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", "15.14", 15),
            ("postgres (PostgreSQL) 18beta1\n", "18beta1", 18),
            ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64\n", "7.0.15", 7),
            ("Server v=8.1.3 sha=00000000:0\n", "8.1.3", 8),
        ] {
            assert_eq!(Version::parse(line), Some(Version { text: text.to_owned(), major }), "{line}");
        }
        assert_eq!(Version::parse("not found"), None);
    }

    #[test]
    fn a_version_below_the_least_is_refused_with_what_to_install() {
        let version = Version { text: "13.4".to_owned(), major: 13 };
        let error = version.check("PostgreSQL", 15, "the package postgresql").unwrap_err().to_string();
        assert_eq!(
            error,
            "PostgreSQL 13.4 is too old, 15 or newer is needed: install a newer version of the package postgresql."
        );
    }
}
