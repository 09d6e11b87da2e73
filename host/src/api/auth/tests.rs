use axum::http::HeaderValue;

use super::*;

fn tokens() -> Tokens {
    // `secret` and `other`.
    Tokens::parse(
        "[[tokens]]\nname = \"shop\"\n\
         sha256 = \"2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\"\n\
         roles = [\"publish\"]\n[[tokens]]\nname = \"ops\"\n\
         sha256 = \"d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa\"\n\
         roles = [\"operate\"]\n",
    )
    .unwrap()
}

fn ask(method: &Method, path: &'static str, auth: Option<&'static str>) -> Result<String, Code> {
    let mut headers = HeaderMap::new();
    if let Some(auth) = auth {
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static(auth));
    }
    authorize(Some(&tokens()), true, method, &Uri::from_static(path), &headers)
        .map(|principal| principal.name().to_string())
        .map_err(|error| error.code)
}

#[test]
fn roles_decide() {
    let shop = Some("Bearer secret");
    let ops = Some("bearer other");
    assert_eq!(ask(&Method::POST, "/v1/events", shop), Ok("shop".to_owned()));
    assert_eq!(ask(&Method::GET, "/v1/events", shop), Err(Code::MissingRole));
    assert_eq!(ask(&Method::GET, "/v1/events", ops), Ok("ops".to_owned()));
    assert_eq!(ask(&Method::POST, "/v1/events", ops), Err(Code::MissingRole));
    assert_eq!(ask(&Method::POST, "/v1/plugins/a/pause", ops), Ok("ops".to_owned()));
    let clock = "/v1/buses/main/follow-clock";
    assert_eq!(ask(&Method::POST, clock, ops), Ok("ops".to_owned()));
    assert_eq!(ask(&Method::POST, clock, shop), Err(Code::MissingRole));
    assert_eq!(ask(&Method::POST, "/v1/plugins/a/command/open", shop), Ok("shop".to_owned()));
    assert_eq!(ask(&Method::POST, "/v1/plugins/a/command/open", ops), Err(Code::MissingRole));
    assert_eq!(ask(&Method::POST, "/v1/plugins/a/query/b/c", ops), Ok("ops".to_owned()));
    assert_eq!(ask(&Method::POST, "/v1/plugins/a/query/b", shop), Err(Code::MissingRole));
    assert_eq!(ask(&Method::POST, "/v1/plugins/command/command", shop), Err(Code::MissingRole));
    assert_eq!(ask(&Method::DELETE, "/v1/plugins/a", ops), Err(Code::MissingRole));
    assert_eq!(ask(&Method::GET, "/healthz", None), Ok(String::new()));
    assert_eq!(ask(&Method::POST, "/healthz", None), Err(Code::Unauthorized));
    assert_eq!(ask(&Method::GET, "/no/such/route", None), Err(Code::Unauthorized));
    for wrong in ["Bearer Secret", "Bearer ", "Basic secret", "secret"] {
        assert_eq!(ask(&Method::GET, "/v1/events", Some(wrong)), Err(Code::Unauthorized));
    }
}

#[test]
fn pages_from_elsewhere_are_refused_while_open() {
    let cases = [
        (None, "127.0.0.1:7411", true),
        (None, "localhost:7411", true),
        (None, "[::1]:7411", true),
        (None, "rebound.example:7411", false),
        (Some("http://127.0.0.1:7411"), "127.0.0.1:7411", true),
        (Some("http://evil.example"), "127.0.0.1:7411", false),
        (Some("null"), "127.0.0.1:7411", false),
    ];
    for (origin, host, expected) in cases {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        let uri = Uri::from_static("/v1/events");
        let answer = authorize(None, true, &Method::POST, &uri, &headers);
        assert_eq!(answer.is_ok(), expected, "{origin:?} {host}");
        let names_host = answer.is_err_and(|error| error.detail.message.contains("`Host`"));
        assert_eq!(names_host, host.starts_with("rebound"), "{host}");
    }
}

#[test]
fn a_tokens_file_is_taken_whole_or_not_at_all() {
    let cases = [
        ("", "there is no token"),
        ("[[tokens]]\nname = 'a'\nsha256 = '12'\nroles = []", "64 hex digits"),
        ("[[tokens]]\nname = 'a'\ntoken = 'x'\nroles = []", "line 3: a token is a table"),
        ("[[tokens]]\nname = 'a'\nsha256 = ''\nroles = ['root']", "line 4: a token is a table"),
    ];
    for (text, expected) in cases {
        let error = Tokens::parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_wrong_with_tokens_is_said_with_its_place_and_without_the_token() {
    let error = Tokens::from_variable("TIDEGATE_TOKENS", "\ns3cret\n").unwrap_err().to_string();
    let place = "environment variable `TIDEGATE_TOKENS`: line 2: ";
    assert!(error.starts_with(place) && !error.contains("s3cret"), "{error}");
    for text in [
        "tokens = ['s3cret']",
        "tokens = 's3cret'",
        "s3cret = 'shop'",
        "[[tokens]]\nname = 'a'\nsha256 = ''\nroles = 's3cret'",
        "[[tokens]]\nname = 'a'\ns3cret = ''",
    ] {
        let error = Tokens::parse(text).unwrap_err().to_string();
        assert!(error.contains("a token is a table") && !error.contains("s3cret"), "{error}");
    }
    let error = Tokens::load(Path::new("/no/tokens.toml")).unwrap_err().to_string();
    assert!(error.starts_with("cannot read tokens file `/no/tokens.toml`: No such"), "{error}");
}

#[test]
fn a_tokens_file_read_again_counts_from_then_on_unless_it_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.toml");
    let put = |token: &str| {
        let hash = Sha256::digest(token.as_bytes());
        let hash = blake3::Hash::from_bytes(hash.into()).to_hex();
        let text = format!("[[tokens]]\nname = 'a'\nsha256 = '{hash}'\nroles = []");
        std::fs::write(&path, text).unwrap();
    };
    put("old");
    let tokens = Tokens::load(&path).unwrap();
    put("new");
    assert!(tokens.find("old").is_some() && tokens.find("new").is_none());
    tokens.reload().unwrap();
    assert!(tokens.find("old").is_none() && tokens.find("new").is_some());
    std::fs::write(&path, "[[tokens]]\nname = 'a'").unwrap();
    assert!(tokens.reload().is_err());
    assert!(tokens.find("new").is_some(), "what was there stays in force");
}
