//! What a plugin may reach outside: asked for by its manifest, allowed by the operator, never more
//! than both.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use url::Url;

/// The `[grants]` section of a manifest, and the operator's `allow`. Empty: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Grants {
    /// Hosts that calls may go to.
    pub http: Vec<HostPattern>,
    /// Environment variables a module may see.
    pub env: Vec<GrantName>,
    /// Secrets that calls may carry: their names, never their values.
    pub secrets: Vec<GrantName>,
    /// Hosts that may have an address of a private network. The operator alone says so, and it holds
    /// for hosts that `http` covers too.
    #[serde(skip)]
    pub private: Vec<HostPattern>,
}

/// Hosts of outgoing requests: `api.example.com`, `*.example.com:8443`, `localhost:*`, `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPattern {
    /// Lower case; for a wildcard what follows the star.
    host: String,
    wildcard: bool,
    port: PortPattern,
}

/// Ports of a [`HostPattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PortPattern {
    /// The default port of the request's scheme.
    Default,
    /// Every port.
    Any,
    /// This one.
    One(u16),
}

/// The name of an environment variable or a secret: 1 to 255 printable bytes without `=`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantName(String);

/// The text names no hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "hosts such as \"api.example.com\", \"*.example.com:8443\" or \"*\", without a scheme or path"
)]
pub struct InvalidHost;

/// The text names no variable or secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("names of 1 to 255 letters, digits, `_`, `-` and `.`")]
pub struct InvalidGrantName;

impl Grants {
    /// Whether the plugin can be noticed outside: then it has to say where it starts.
    #[must_use]
    pub fn is_outbound(&self) -> bool {
        !self.http.is_empty()
    }

    /// What both sides grant.
    #[must_use]
    pub fn intersect(&self, allowed: &Self) -> Self {
        let pairs = self.http.iter().flat_map(|a| allowed.http.iter().map(move |b| (a, b)));
        let http: BTreeSet<HostPattern> = pairs.filter_map(|(a, b)| a.intersect(b)).collect();
        let both = |ours: &[GrantName], theirs: &[GrantName]| {
            ours.iter().filter(|name| theirs.contains(name)).cloned().collect()
        };
        Self {
            http: http.into_iter().collect(),
            env: both(&self.env, &allowed.env),
            secrets: both(&self.secrets, &allowed.secrets),
            private: allowed.private_hosts(),
        }
    }

    /// The hosts that may have private addresses where these are the operator's words: those named
    /// so, and those that can have no other: addresses, and `localhost`.
    #[must_use]
    pub fn private_hosts(&self) -> Vec<HostPattern> {
        let spoken = self.http.iter().filter(|host| host.is_literal());
        self.private.iter().chain(spoken).cloned().collect()
    }

    /// The granted variables that are in the environment of this process and are text, in the order
    /// of the manifest.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        let value = |name: &GrantName| Some((name.0.clone(), std::env::var(&name.0).ok()?));
        self.env.iter().filter_map(value).collect()
    }

    /// Whether a request to `url` is covered.
    #[must_use]
    pub fn allows_http(&self, url: &Url) -> bool {
        self.http.iter().any(|host| host.allows(url))
    }

    /// Whether the host of `url` may have a private address.
    #[must_use]
    pub fn allows_private(&self, url: &Url) -> bool {
        self.private.iter().any(|host| host.allows(url))
    }
}

impl Grants {
    /// What is asked for here and not fully covered by `allowed`: the key and the entry.
    #[must_use]
    pub fn without(&self, allowed: &Self) -> Vec<(&'static str, String)> {
        let granted = self.intersect(allowed);
        let hosts = self.http.iter().filter(|asked| !granted.http.contains(asked));
        let variables = self.env.iter().filter(|asked| !granted.env.contains(asked));
        let secrets = self.secrets.iter().filter(|asked| !granted.secrets.contains(asked));
        hosts
            .map(|host| ("grants.http", host.to_string()))
            .chain(variables.map(|name| ("grants.env", name.0.clone())))
            .chain(secrets.map(|name| ("grants.secrets", name.0.clone())))
            .collect()
    }
}

impl HostPattern {
    /// Whether a request to `url` is covered.
    #[must_use]
    pub fn allows(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let port = match self.port {
            PortPattern::Default => url.port().is_none(),
            PortPattern::Any => true,
            PortPattern::One(port) => url.port_or_known_default() == Some(port),
        };
        port && self.covers(&host.to_ascii_lowercase())
    }

    /// Whether it names an address, or the machine itself.
    fn is_literal(&self) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']');
        let address = address.parse::<std::net::IpAddr>().is_ok();
        !self.wildcard && (address || self.host == "localhost")
    }

    fn covers(&self, host: &str) -> bool {
        if !self.wildcard {
            return self.host == host;
        }
        // `.example.com` has to follow at least one letter: the star is not the domain itself.
        host.strip_suffix(self.host.as_str()).is_some_and(|label| !label.is_empty())
    }

    /// The hosts that both patterns cover; ports have to be written alike, unless one covers all.
    fn intersect(&self, other: &Self) -> Option<Self> {
        let port = match (self.port, other.port) {
            (PortPattern::Any, port) | (port, PortPattern::Any) => port,
            (one, two) if one == two => one,
            _ => return None,
        };
        let narrower = match (self.wildcard, other.wildcard) {
            (false, _) => other.covers(&self.host).then_some(self),
            (true, false) => self.covers(&other.host).then_some(other),
            (true, true) if self.host.ends_with(&other.host) => Some(self),
            (true, true) => other.host.ends_with(&self.host).then_some(other),
        };
        narrower.map(|narrower| Self { port, ..narrower.clone() })
    }
}

impl FromStr for HostPattern {
    type Err = InvalidHost;
    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, "*")) => (host, PortPattern::Any),
            Some((host, port)) if !port.contains(']') => {
                let port = port.parse().ok().filter(|port| *port != 0).ok_or(InvalidHost)?;
                (host, PortPattern::One(port))
            }
            _ => (text, PortPattern::Default),
        };
        let host = host.to_ascii_lowercase();
        let (host, wildcard) = match host.strip_prefix('*') {
            Some(rest) if rest.is_empty() || rest.starts_with('.') => (rest.to_owned(), true),
            Some(_) => return Err(InvalidHost),
            None => (host, false),
        };
        let name = |text: &str| {
            let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.';
            text.bytes().all(letter) && !text.contains("..") && !text.ends_with('.')
        };
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let valid = match address {
            Some(address) => !wildcard && address.parse::<std::net::Ipv6Addr>().is_ok(),
            None if wildcard => host.is_empty() || (host.len() > 1 && name(&host)),
            None => !host.is_empty() && !host.starts_with('.') && name(&host),
        };
        if valid { Ok(Self { host, wildcard, port }) } else { Err(InvalidHost) }
    }
}

impl FromStr for GrantName {
    type Err = InvalidGrantName;
    fn from_str(text: &str) -> Result<Self, InvalidGrantName> {
        let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if (1..=crate::limits::NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(letter) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidGrantName)
        }
    }
}

impl GrantName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.wildcard { "*" } else { "" };
        write!(f, "{star}{}", self.host)?;
        match self.port {
            PortPattern::Default => Ok(()),
            PortPattern::Any => f.write_str(":*"),
            PortPattern::One(port) => write!(f, ":{port}"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for GrantName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(http: &[&str], secrets: &[&str]) -> Grants {
        Grants {
            http: http.iter().map(|text| text.parse().unwrap()).collect(),
            env: Vec::new(),
            secrets: secrets.iter().map(|text| text.parse().unwrap()).collect(),
            private: Vec::new(),
        }
    }

    #[test]
    fn granted_variables_have_the_values_of_this_process() {
        let asked = ["CARGO_PKG_NAME", "A_VARIABLE_THAT_IS_NOT_THERE"];
        let env = asked.iter().map(|text| text.parse().unwrap()).collect();
        let found = Grants { env, ..Grants::default() }.variables();
        assert_eq!(found, [("CARGO_PKG_NAME".to_owned(), "tidegate".to_owned())]);
    }

    #[test]
    fn a_host_pattern_allows_its_hosts_and_ports_only() {
        for (pattern, url, expected) in [
            ("api.example.com", "https://api.example.com/x", true),
            ("API.example.com", "https://api.example.com:443/x", true),
            ("api.example.com", "https://api.example.com:8443/x", false),
            ("api.example.com:443", "https://api.example.com/x", true),
            ("*.example.com:8443", "https://a.b.example.com:8443", true),
            ("*.example.com", "https://example.com", false),
            ("*.example.com", "https://notexample.com", false),
            ("*.example.com", "https://example.com.evil.org", false),
            ("*", "http://anything.org", true),
            ("*", "http://anything.org:81", false),
            ("[::1]:8080", "http://[::1]:8080/", true),
            ("localhost:*", "http://localhost:81/", true),
            ("localhost:*", "https://localhost/", true),
        ] {
            let pattern: HostPattern = pattern.parse().unwrap();
            assert_eq!(pattern.allows(&url.parse().unwrap()), expected, "{pattern} on {url}");
        }
    }

    #[test]
    fn what_names_no_host_is_refused() {
        for text in
            ["", "https://a.b", "a.b/c", "*a.b", "a.*", "a.b:", "a.b:0", "a.b:x", "a b", "*.", ".a"]
        {
            assert_eq!(text.parse::<HostPattern>(), Err(InvalidHost), "{text}");
        }
    }

    #[test]
    fn effective_grants_are_never_more_than_either_side() {
        for (asked, allowed, effective) in [
            (vec!["api.a.com"], vec![], vec![]),
            (vec!["api.a.com"], vec!["*.a.com"], vec!["api.a.com"]),
            (vec!["*.a.com"], vec!["api.a.com", "x.b.com"], vec!["api.a.com"]),
            (vec!["*.x.a.com"], vec!["*.a.com"], vec!["*.x.a.com"]),
            (vec!["*"], vec!["*.a.com"], vec!["*.a.com"]),
            (vec!["api.a.com:81"], vec!["*"], vec![]),
            (vec!["api.a.com:81"], vec!["*:*"], vec!["api.a.com:81"]),
            (vec!["api.a.com:*"], vec!["api.a.com"], vec!["api.a.com"]),
            (vec![], vec!["*"], vec![]),
        ] {
            let both = grants(&asked, &[]).intersect(&grants(&allowed, &[]));
            assert_eq!(both, grants(&effective, &[]), "{asked:?} and {allowed:?}");
        }
        let both = grants(&[], &["a", "b"]).intersect(&grants(&[], &["b", "c"]));
        assert_eq!(both, grants(&[], &["b"]));
    }
    #[test]
    fn a_private_address_takes_a_word_that_cannot_mean_anything_else() {
        let asked = grants(&["*:*"], &[]);
        let mut allowed = grants(&["*", "localhost:*", "10.0.0.7:81", "in.example.com"], &[]);
        allowed.private = vec!["*.intern.example.com".parse().unwrap()];
        let granted = asked.intersect(&allowed);
        for (url, expected) in [
            ("http://localhost:9/", true),
            ("http://10.0.0.7:81/", true),
            ("http://10.0.0.7/", false),
            ("http://127.0.0.1/", false),
            ("http://in.example.com/", false),
            ("http://a.intern.example.com/", true),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(granted.allows_private(&url), expected, "{url}");
        }
        // A manifest cannot say it.
        assert!(grants(&["localhost"], &[]).private.is_empty());
    }
}
