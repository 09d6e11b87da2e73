//! The web console: what a browser loads to show the host. It asks the host over the same interface as
//! everybody, with the token of whoever looks; what is served here is the same for all, and needs none.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::app::App;

/// Nothing from elsewhere is loaded or asked, nothing inline is run, and no page of others frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the console.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const fn asset(path: &'static str, content_type: &'static str, text: &'static str) -> Asset {
    Asset { path, content_type, text }
}

const fn script(path: &'static str, text: &'static str) -> Asset {
    asset(path, "text/javascript; charset=utf-8", text)
}

/// Paths are as the files lie in `host/console`, which refer to one another by relative addresses: it may
/// stand behind a proxy under a path of its own.
const ASSETS: [Asset; 14] = [
    asset("/", "text/html; charset=utf-8", include_str!("../../console/index.html")),
    asset("/console/style.css", "text/css; charset=utf-8", include_str!("../../console/style.css")),
    asset("/console/icon.svg", "image/svg+xml", include_str!("../../console/icon.svg")),
    script("/console/api.js", include_str!("../../console/api.js")),
    script("/console/dead_letters.js", include_str!("../../console/dead_letters.js")),
    script("/console/dom.js", include_str!("../../console/dom.js")),
    script("/console/events.js", include_str!("../../console/events.js")),
    script("/console/json.js", include_str!("../../console/json.js")),
    script("/console/main.js", include_str!("../../console/main.js")),
    script("/console/overview.js", include_str!("../../console/overview.js")),
    script("/console/plugin.js", include_str!("../../console/plugin.js")),
    script("/console/publish.js", include_str!("../../console/publish.js")),
    script("/console/shell.js", include_str!("../../console/shell.js")),
    script("/console/types.js", include_str!("../../console/types.js")),
];

/// The entity tags, in the order of [`ASSETS`]: a browser asks again each time, and loads what another
/// version of the host has changed.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag = |asset: &Asset| format!("\"{}\"", blake3::hash(asset.text.as_bytes()).to_hex());
    ASSETS.iter().map(tag).collect()
});

/// Whether there is such a file.
pub(super) fn is_asset(path: &str) -> bool {
    ASSETS.iter().any(|asset| asset.path == path)
}

/// A route for each file.
pub(super) fn routes() -> Router<Arc<App>> {
    ASSETS.iter().fold(Router::new(), |router, asset| router.route(asset.path, get(serve)))
}

async fn serve(uri: Uri, headers: HeaderMap) -> Response {
    let found = ASSETS.iter().zip(TAGS.iter()).find(|(asset, _)| asset.path == uri.path());
    let Some((asset, tag)) = found else { return StatusCode::NOT_FOUND.into_response() };
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let known = known.is_some_and(|known| known.split(',').any(|one| matches(one, tag)));
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, asset.content_type)], asset.text).into_response()
    };
    let tag = HeaderValue::from_str(tag).ok();
    response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
    response.headers_mut().extend(fixed());
    response
}

/// RFC 9110, 13.1.2: tags are compared weakly, for a proxy that compresses makes them weak.
fn matches(one: &str, tag: &str) -> bool {
    let one = one.trim();
    one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag
}

fn fixed() -> [(HeaderName, HeaderValue); 3] {
    [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_is_served_and_refers_to_nothing_else() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("console");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let files = files.map(|name| match name.to_str().unwrap() {
            "index.html" => "/".to_owned(),
            name => format!("/console/{name}"),
        });
        let served = ASSETS.iter().map(|asset| asset.path.to_owned());
        assert_eq!(files.collect::<BTreeSet<_>>(), served.collect());
        for asset in &ASSETS {
            let named = |before: &'static str| {
                let parts = asset.text.split(before).skip(1);
                parts.map(|part| format!("/console/{}", part.split('"').next().unwrap()))
            };
            for path in named("from \"./").chain(named("=\"console/")) {
                assert!(is_asset(&path), "{} refers to {path}", asset.path);
            }
            assert!(!asset.text.contains("innerHTML"), "{}", asset.path);
        }
    }

    #[test]
    fn what_a_browser_has_is_not_sent_again() {
        for (sent, again) in [
            ("\"a\"", false),
            ("W/\"a\"", false),
            ("*", false),
            ("\"b\", W/\"a\"", false),
            ("\"b\"", true),
            ("a", true),
        ] {
            let known = sent.split(',').any(|one| matches(one, "\"a\""));
            assert_eq!(!known, again, "{sent}");
        }
    }
}
