//! Whom the command line trusts, and what certificate it shows, where a server is asked by `https://`.

use std::{ffi::OsString, path::PathBuf};

use super::{Failure, login::Credential};
use crate::{
    client::Credentials,
    config::BaseUrl,
    tls::{Pair, Part, Problem, Upstream, UpstreamSetting},
};

/// Flattened into the arguments of whoever calls controllers or registries. A variable that is empty is none.
#[derive(Debug, clap::Args)]
pub(super) struct Trust {
    /// The authority whose certificates are believed, for https:// [default: those that the system trusts]
    #[arg(long, alias = "cacert", value_name = "FILE", env = "SWITCHYARD_CA")]
    ca: Option<OsString>,
    /// The certificate that is shown
    #[arg(long, value_name = "FILE", env = "SWITCHYARD_CERT")]
    cert: Option<OsString>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE", env = "SWITCHYARD_KEY")]
    key: Option<OsString>,
    /// The name that the server's certificate must be for, if another than that of the URL
    #[arg(long, value_name = "NAME", env = "SWITCHYARD_SERVER_NAME")]
    server_name: Option<String>,
}

impl Trust {
    /// How these servers are spoken to. Files are read for those that are asked by `https://`, and for nobody else.
    pub(super) fn credentials<'u>(
        &self,
        credential: &Credential,
        urls: impl IntoIterator<Item = &'u BaseUrl>,
    ) -> Result<Credentials, Failure> {
        let secured = urls.into_iter().any(BaseUrl::is_secured);
        let tls = if secured { Some(self.load()?) } else { None };
        Ok(Credentials::new(credential.login()?, tls))
    }

    fn load(&self) -> Result<Upstream, Failure> {
        let file =
            |given: &Option<OsString>| given.clone().filter(|path| !path.is_empty()).map(PathBuf::from);
        let identity = match (file(&self.cert), file(&self.key)) {
            (Some(cert), Some(key)) => Some(Pair { cert, key }),
            (None, None) => None,
            (Some(_), None) => return Err(lonely("--cert", "--key FILE", "SWITCHYARD_KEY")),
            (None, Some(_)) => return Err(lonely("--key", "--cert FILE", "SWITCHYARD_CERT")),
        };
        let (ca, server_name) = (file(&self.ca), self.server_name.clone().filter(|name| !name.is_empty()));
        let setting = UpstreamSetting { ca, server_name, identity, verify: true };
        Upstream::load(setting).map_err(|problems| refused(&problems))
    }
}

fn lonely(given: &str, missing: &str, variable: &str) -> Failure {
    Failure::Usage {
        error: format!("`{given}` is given alone"),
        hint: Some(format!(
            "a certificate needs its key and a key its certificate: `{missing}`, or {variable}"
        )),
    }
}

/// What is wrong with the files, all of it.
fn refused(problems: &[Problem]) -> Failure {
    let of = |problem: &Problem| match problem.part {
        Part::Cert(_) => format!("`--cert` `{}` {}", problem.name, problem.what),
        Part::Key(_) => format!("`--key` `{}` {}", problem.name, problem.what),
        Part::Authorities => format!("`--ca` `{}` {}", problem.name, problem.what),
        Part::Lists | Part::Whole => match problem.what.starts_with("has no `ca`") {
            true => "no `--ca` is given, and this system trusts no authority".into(),
            false => format!("TLS {}", problem.what),
        },
    };
    let hint = match problems {
        [one] if one.part == Part::Whole => {
            "`--ca FILE` with the certificate of the server's authority".into()
        }
        several => {
            let mut rights: Vec<&str> = several.iter().map(|one| one.right.as_str()).collect();
            rights.dedup();
            rights.join("; ")
        }
    };
    Failure::Usage { error: problems.iter().map(of).collect::<Vec<_>>().join("; "), hint: Some(hint) }
}
