//! Reads certificates, logins, keys and the configuration again while the gateway runs. A file that cannot be used leaves the one
//! before in force.

use std::sync::Arc;

use crate::admin::configuration;
use crate::app::settings::{
    Logins, forwards, known_hosts, open_htpasswd, open_tokens, settings, tell_names, upstream_caches,
    upstreams,
};
use crate::app::{App, Origin};
use crate::authn::{Authenticator, Reload, Reread};
use crate::config::{Config, limits};
use crate::file_stamp::Stamp;
use crate::gateway::{Core, Settings};
use crate::issuer;
use crate::origin::attach;
use crate::proto::Secret;
use crate::proto::htpasswd::Warning;

impl App {
    /// Checks all files every two seconds and reloads those that have changed. Never ends.
    pub async fn watch(&self) {
        let mut stamps = self.stamps();
        loop {
            tokio::time::sleep(limits::FILE_WATCH_INTERVAL).await;
            self.reload_certificates();
            let authenticator = self.core.load().settings.authenticator.clone();
            let reload = tokio::task::spawn_blocking(move || authenticator.reload_if_changed()).await;
            self.note_htpasswd("htpasswd", reload.unwrap_or(Reload::Unchanged));
            let tokens = self.core.load().settings.tokens.clone();
            let read = tokio::task::spawn_blocking(move || tokens.map(|tokens| tokens.reload(false))).await;
            self.note_tokens(read.ok().flatten().unwrap_or_default());
            if let Some(operators) = self.operators.clone() {
                let reload = tokio::task::spawn_blocking(move || operators.reload_if_changed()).await;
                self.note_htpasswd("admin.htpasswd", reload.unwrap_or(Reload::Unchanged));
            }
            let now = self.stamps();
            if now != stamps {
                stamps = now;
                self.reload_config();
                let files = self.config().files.len();
                if files != stamps.len() {
                    stamps = self.stamps();
                }
            }
        }
    }

    /// Reloads everything, on SIGHUP, and opens the audit log anew.
    pub fn reload(&self) {
        if let Some(audit_log) = &self.audit_log {
            audit_log.reopen();
        }
        self.reload_certificates();
        if let Some(renewal) = &self.renewal {
            renewal.retry();
        }
        self.note_htpasswd("htpasswd", self.core.load().settings.authenticator.reload());
        if let Some(tokens) = &self.core.load().settings.tokens {
            self.note_tokens(tokens.reload(true));
        }
        if let Some(operators) = &self.operators {
            self.note_htpasswd("admin.htpasswd", operators.reload());
        }
        self.reload_config();
    }

    fn stamps(&self) -> Vec<Stamp> {
        self.config().files.iter().map(|path| Stamp::of(path)).collect()
    }

    fn reload_certificates(&self) {
        let Some(certificates) = &self.certificates else { return };
        match certificates.reload_if_changed() {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!("certificates reloaded");
                self.state.note("certificates", None);
                self.replace_core(|settings| {
                    settings.hosts = known_hosts(&self.config(), Some(certificates));
                    settings.client_authorities = certificates.client_authorities();
                });
                tell_names(&self.config(), &self.core.load().settings, &self.addresses);
            }
            Err(error) => {
                tracing::error!(%error, "cannot use the new certificates; the old ones stay in force");
                self.state.note("certificates", Some(error.to_string()));
            }
        }
    }

    fn note_htpasswd(&self, file: &'static str, reload: Reload) {
        match reload {
            Reload::Unchanged => {}
            Reload::Swapped(table) => {
                tracing::info!(file, users = table.users(), "htpasswd file reloaded");
                warn_of_lines(table.warnings());
                let problem = (table.users() == 0).then(|| NO_USER.to_owned());
                if let Some(problem) = &problem {
                    tracing::warn!("{problem}");
                }
                self.state.note(file, problem);
            }
            Reload::Kept(error) => {
                tracing::error!(file, %error, "cannot use the new htpasswd file; the old one stays in force");
                self.state.note(file, Some(error.to_string()));
            }
        }
    }

    fn note_tokens(&self, read: Vec<Reread>) {
        for (key, problem) in read {
            if let Some(error) = &problem {
                tracing::error!(key, %error, "cannot use the new file; what was read before stays in force");
            }
            self.state.note(key, problem);
        }
    }

    /// Reads the configuration again and applies rules and upstreams. Keys of sockets and threads need a restart; a warning
    /// names them.
    fn reload_config(&self) {
        let Some(origin) = &self.origin else { return };
        match self.apply(origin) {
            Ok(()) => {
                tracing::info!("configuration reloaded");
                self.state.note("configuration", None);
            }
            Err(error) => {
                tracing::error!(%error, "cannot use the new configuration; the old one stays in force");
                self.state.note("configuration", Some(error));
            }
        }
    }

    fn apply(&self, origin: &Origin) -> Result<(), String> {
        let config =
            Config::check(origin.path.as_deref(), &origin.environment).map_err(|error| error.to_string())?;
        let core = self.core.load_full();
        let before = self.config().clone();
        warn_of_restart(&before, &config);
        for warning in config.warnings.iter().filter(|warning| !before.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        let same_logins =
            config.auth.htpasswd == before.auth.htpasswd && forwards(&config) == forwards(&before);
        let authenticator = if same_logins {
            core.settings.authenticator.clone()
        } else {
            let file = open_htpasswd(&config).map_err(|error| error.to_string())?;
            let authenticator = Authenticator::new(file).map_err(|error| error.to_string())?;
            Arc::new(authenticator.forwarding(forwards(&config)))
        };
        let tokens = if config.auth.token == before.auth.token {
            core.settings.tokens.clone()
        } else {
            open_tokens(&config).map_err(|error| error.to_string())?
        };
        let workloads = if config.auth.oidc == before.auth.oidc {
            // A file of keys may have changed.
            core.settings.workloads.forget();
            core.settings.workloads.clone()
        } else {
            Arc::new(issuer::workloads(&config.auth.oidc).map_err(|error| error.to_string())?)
        };
        let logins = Logins { authenticator, tokens, workloads };
        let upstreams =
            upstreams(&config, &core.settings.upstreams, self.workers).map_err(|error| error.to_string())?;
        let upstream_caches =
            upstream_caches(&config, &core.settings.upstream_caches, self.cache(&config).as_ref());
        let upstream_caches = attach(upstream_caches, &upstreams);
        let settings = settings(&config, logins, upstreams, upstream_caches, self.certificates.as_deref());
        tell_names(&config, &settings, &self.addresses);
        let mut shared = core.shared();
        if config.upstreams != before.upstreams {
            shared.forget_logins();
        }
        self.core.store(Arc::new(Core::new(settings, shared)));
        self.state.set_configuration(configuration::lines(&config));
        *self.config() = config;
        Ok(())
    }

    fn replace_core(&self, change: impl FnOnce(&mut Settings)) {
        let core = self.core.load_full();
        let mut settings = core.settings.clone();
        change(&mut settings);
        self.core.store(Arc::new(Core::new(settings, core.shared())));
    }
}

/// Warns of changed keys that need a restart.
fn warn_of_restart(before: &Config, now: &Config) {
    let (old, new) = (&before.server, &now.server);
    let changed = [
        ("server.address", old.addresses != new.addresses),
        ("server.tls", old.tls != new.tls),
        ("server.max_connections", old.max_connections != new.max_connections),
        (
            "server.max_connections_per_client",
            old.max_connections_per_client != new.max_connections_per_client,
        ),
        ("server.max_held_bytes", old.max_held_bytes != new.max_held_bytes),
        ("server.header_timeout", old.header_timeout != new.header_timeout),
        ("server.idle_timeout", old.idle_timeout != new.idle_timeout),
        ("server.stall_timeout", old.stall_timeout != new.stall_timeout),
        ("server.proxy_protocol", old.proxy_protocol != new.proxy_protocol),
        ("server.trusted_proxies", new.proxy_protocol && old.trusted_proxies != new.trusted_proxies),
        ("server.secret", !same_secret(old.secret.as_ref(), new.secret.as_ref())),
        ("admin", before.admin != now.admin),
        ("log", before.log != now.log),
        ("peers", before.peers != now.peers),
        ("cache.store", before.store != now.store),
        ("cache", before.cache.is_some() && before.cache != now.cache),
    ];
    for (key, _) in changed.into_iter().filter(|(_, changed)| *changed) {
        tracing::warn!(key, "changing this key needs a restart");
    }
}

fn same_secret(old: Option<&Secret>, new: Option<&Secret>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => old.ct_eq(new),
        (old, new) => old.is_none() && new.is_none(),
    }
}

const NO_USER: &str = "no user can log in: the file has no usable line";

fn warn_of_lines(warnings: &[Warning]) {
    for warning in warnings {
        tracing::warn!(line = warning.line, reason = %warning.reason, "ignoring a line of the htpasswd file");
    }
}
