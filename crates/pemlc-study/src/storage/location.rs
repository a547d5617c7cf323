//! Where a study is: a file or a server, by the URLs that Optuna takes.

use super::StorageError;
use postgres::Config;
use postgres::config::{Host, SslMode};
use std::fmt::{self, Display};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where a study is.
#[derive(Debug, Clone)]
pub enum Location {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A database of a PostgreSQL server.
    Postgres(PostgresUrl),
}

/// A database of a PostgreSQL server. What is displayed has no password.
#[derive(Clone)]
pub struct PostgresUrl(Box<Config>);

impl Location {
    /// `sqlite:///FILE` (four slashes for an absolute path), a path, or `postgresql://USER@HOST:PORT/DATABASE`. Where the URL has no
    /// password, `password` is taken.
    ///
    /// # Errors
    /// When it is none of these. The text is not repeated, for there may be a password in it.
    pub fn parse(text: &str, password: Option<&str>) -> Result<Self, StorageError> {
        match text.split_once("://") {
            None if !text.is_empty() => Ok(Self::Sqlite(PathBuf::from(text))),
            Some(("sqlite", path)) if path.starts_with('/') && path.len() > 1 => {
                Ok(Self::Sqlite(PathBuf::from(&path[1..])))
            }
            // SQLAlchemy's URLs may name a Python driver.
            Some((scheme, rest)) if matches!(scheme.split('+').next(), Some("postgresql" | "postgres")) => {
                Ok(Self::Postgres(PostgresUrl::parse(&format!("postgresql://{rest}"), password)?))
            }
            other => {
                let scheme = other.map_or_else(String::new, |(scheme, _)| format!("{scheme}://"));
                Err(StorageError::Location(scheme))
            }
        }
    }
}

impl PostgresUrl {
    fn parse(url: &str, password: Option<&str>) -> Result<Self, StorageError> {
        let mut config = Config::from_str(url).map_err(|error| {
            let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            StorageError::PostgresUrl(reason)
        })?;
        if config.get_hosts().is_empty() {
            return Err(StorageError::PostgresUrl("it names no host".to_owned()));
        }
        if config.get_ssl_mode() == SslMode::Require {
            return Err(StorageError::Tls);
        }
        if let (None, Some(password)) = (config.get_password(), password) {
            config.password(password);
        }
        config.application_name("pemlc").connect_timeout(Duration::from_secs(10));
        config.keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(Duration::from_secs(60));
        Ok(Self(Box::new(config)))
    }

    pub(super) fn config(&self) -> &Config {
        &self.0
    }
}

impl Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("postgresql://")?;
        if let Some(user) = self.0.get_user() {
            write!(f, "{user}@")?;
        }
        let ports = self.0.get_ports();
        for (index, host) in self.0.get_hosts().iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match host {
                Host::Tcp(name) => write!(f, "{comma}{name}")?,
                Host::Unix(folder) => write!(f, "{comma}{}", folder.display())?,
            }
            if let Some(port) = ports.get(index).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.0.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match Location::parse(text, None) {
            Ok(Location::Sqlite(path)) => path.display().to_string(),
            Ok(Location::Postgres(url)) => url.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn studies_are_named_as_optuna_names_them() {
        assert_eq!(shown("sqlite:///a/b.db"), "a/b.db");
        assert_eq!(shown("sqlite:////a/b.db"), "/a/b.db");
        assert_eq!(shown("b.db"), "b.db");
        assert_eq!(shown("postgresql+psycopg2://me@host:5433/db"), "postgresql://me@host:5433/db");
        assert_eq!(shown("postgres://me@/db?host=/run/pg"), "postgresql://me@/run/pg/db");
        assert!(shown("mysql://host/db").contains("mysql://"));
        assert!(shown("sqlite:///").contains("expected"));
        assert!(shown("postgresql:///db").contains("no host"));
        assert!(shown("postgresql://host/db?sslmode=require").contains("TLS"));
        assert!(shown("postgresql://host/db?sslrootcert=x").contains("sslrootcert"));
    }

    #[test]
    fn passwords_are_never_shown() {
        for text in
            ["postgresql://me:secret@host/db", "postgresql://me@host/db?password=secret", "mysql://me:secret@host"]
        {
            assert!(!shown(text).contains("secret"), "{}", shown(text));
        }
        let location = Location::parse("postgresql://me@host/db", Some("secret")).expect("a location");
        assert!(!format!("{location:?}").contains("secret"));
        let Location::Postgres(url) = location else { panic!("{location:?}") };
        assert_eq!(url.config().get_password(), Some(b"secret".as_slice()));
    }
}
