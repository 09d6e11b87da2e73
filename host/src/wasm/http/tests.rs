use std::pin::Pin;

use futures_util::future::BoxFuture;
use http_body_util::Empty;
use uuid::Uuid;

use super::*;

/// Answers everything with the bytes it was made with, and remembers what it was asked.
struct Echo {
    answer: Result<DirectAnswer, Unanswered>,
    asked: Arc<Mutex<Vec<DirectRequest>>>,
}

impl Outside for Echo {
    fn ask(&self, request: DirectRequest) -> BoxFuture<'static, Result<DirectAnswer, Unanswered>> {
        self.asked.lock().unwrap().push(request);
        Box::pin(std::future::ready(self.answer.clone()))
    }
}

fn body(text: &'static str) -> WasiBody {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}

fn nothing() -> WasiBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn request(method: &str, url: &str, body: WasiBody) -> Request<WasiBody> {
    Request::builder().method(method).uri(url).header("x-own", "1").body(body).unwrap()
}

struct Bench {
    http: Http,
    asked: Arc<Mutex<Vec<DirectRequest>>>,
}

impl Bench {
    fn new(answer: Result<DirectAnswer, Unanswered>) -> Self {
        let asked = Arc::default();
        let outside = Echo { answer, asked: Arc::clone(&asked) };
        let mut http = Http::new(None, super::super::store::now());
        http.asking.outside = Some(Arc::new(outside));
        http.asking.seed = Seed { log_id: Uuid::from_u128(7), ..Seed::default() };
        http.asking.budget.out_bytes.store(1000, Ordering::Relaxed);
        Self { http, asked }
    }

    fn ok() -> Self {
        let headers = vec![("x-theirs".to_owned(), Bytes::from_static(b"2"))];
        Self::new(Ok(DirectAnswer { status: 200, headers, body: Bytes::from_static(b"hello") }))
    }

    async fn ask(&mut self, request: Request<WasiBody>) -> Result<Response<WasiBody>, Error> {
        let asked = self.http.asking.send_request(request, None, Box::new(async { Ok(()) }));
        Pin::from(asked).await.map(|(response, _)| response)
    }

    fn asked(&self) -> Vec<DirectRequest> {
        self.asked.lock().unwrap().clone()
    }

    fn said(&self) -> String {
        self.http.asking.budget.said().join("\n")
    }
}

fn key(request: &DirectRequest) -> Option<String> {
    let (_, value) = request.headers.iter().find(|(name, _)| name == "idempotency-key")?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

#[tokio::test]
async fn a_request_goes_out_whole_and_its_answer_comes_back_whole() {
    let mut bench = Bench::ok();
    let answer = bench.ask(request("POST", "http://a.example/x?y", body("data"))).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-theirs"]),
        (200, &"2".parse().unwrap())
    );
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    let asked = bench.asked();
    assert_eq!((&*asked[0].method, &*asked[0].url), ("POST", "http://a.example/x?y"));
    assert_eq!((&asked[0].body[..], &*asked[0].headers[0].0), (&b"data"[..], "x-own"));
    assert!(bench.http.has_asked() && bench.said().is_empty());
}

#[tokio::test]
async fn an_attempt_that_asks_the_same_again_says_so_and_another_request_does_not() {
    let mut keys = Vec::new();
    for text in ["data", "data", "other"] {
        let mut bench = Bench::ok();
        bench.ask(request("POST", "http://a.example/", body(text))).await.unwrap();
        bench.ask(request("POST", "http://a.example/", body(text))).await.unwrap();
        let asked = bench.asked();
        assert_ne!(key(&asked[0]), key(&asked[1]), "two requests of one delivery are two");
        keys.push(key(&asked[0]).unwrap());
    }
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);

    let mut bench = Bench::ok();
    bench.ask(request("GET", "http://a.example/", nothing())).await.unwrap();
    let mut own = request("POST", "http://a.example/", nothing());
    own.headers_mut().insert("idempotency-key", "own".parse().unwrap());
    bench.ask(own).await.unwrap();
    let asked = bench.asked();
    assert_eq!((key(&asked[0]), key(&asked[1]).as_deref()), (None, Some("own")));
}

#[tokio::test]
async fn nobody_who_sends_is_an_error_in_the_guests_hands() {
    let mut bench = Bench::ok();
    bench.http.asking.outside = None;
    let refused = bench.ask(request("GET", "http://a.example/secret?token", nothing())).await;
    assert!(matches!(refused, Err(Error::HttpRequestDenied)), "{refused:?}");
    assert!(bench.said().starts_with("wasi:http GET http://a.example: nothing is asked"));
    assert!(!bench.said().contains("token"), "{}", bench.said());
}

#[tokio::test]
async fn what_is_sent_and_how_often_is_bounded() {
    let mut bench = Bench::ok();
    let large: &'static str = "x".repeat(990).leak();
    let refused = bench.ask(request("POST", "http://a.example/", body(large))).await;
    assert!(matches!(refused, Err(Error::HttpRequestBodySize(None))), "{refused:?}");
    assert!(bench.asked().is_empty() && bench.said().contains("`limits.output`"));

    let mut bench = Bench::ok();
    bench.http.asking.budget.out_bytes.store(usize::MAX, Ordering::Relaxed);
    for _ in 0..limits::DIRECT_REQUESTS_MAX {
        bench.ask(request("GET", "http://a.example/", nothing())).await.unwrap();
    }
    let refused = bench.ask(request("GET", "http://a.example/", nothing())).await;
    assert!(matches!(refused, Err(Error::ConnectionLimitReached)), "{refused:?}");
    assert_eq!(bench.asked().len(), limits::DIRECT_REQUESTS_MAX as usize);
}

#[tokio::test]
async fn the_answers_of_a_delivery_have_a_bound_together() {
    let full = Bytes::from(vec![0; limits::DIRECT_ANSWER_BYTES_MAX]);
    let mut bench = Bench::new(Ok(DirectAnswer { status: 200, headers: Vec::new(), body: full }));
    let fit = limits::DIRECT_ANSWERS_BYTES_MAX / limits::DIRECT_ANSWER_BYTES_MAX;
    for _ in 0..=fit {
        bench.ask(request("GET", "http://a.example/", nothing())).await.unwrap();
    }
    let asked = bench.asked();
    assert_eq!(asked[0].answer_bytes_max, limits::DIRECT_ANSWER_BYTES_MAX);
    assert_eq!(asked[fit].answer_bytes_max, 0, "nothing more fits");
}

#[tokio::test]
async fn a_tunnel_is_not_asked_for() {
    let mut bench = Bench::ok();
    let refused = bench.ask(request("CONNECT", "http://a.example:1/", nothing())).await;
    assert!(matches!(refused, Err(Error::HttpRequestMethodInvalid)), "{refused:?}");
    assert!(bench.asked().is_empty());
}

#[tokio::test]
async fn a_fault_is_a_typed_error_with_words_in_the_log() {
    for (fault, expected) in [
        (DirectFault::Denied, "HttpRequestDenied"),
        (DirectFault::Address, "DestinationIpProhibited"),
        (DirectFault::Timeout, "HttpResponseTimeout"),
        (DirectFault::TooLarge, "HttpResponseBodySize(None)"),
        (DirectFault::Connect, "ConnectionRefused"),
    ] {
        let mut bench = Bench::new(Err(Unanswered { fault, why: "why not".to_owned() }));
        let refused = bench.ask(request("GET", "http://a.example:81/", nothing())).await;
        assert_eq!(format!("{:?}", refused.unwrap_err()), expected);
        assert_eq!(bench.said(), "wasi:http GET http://a.example:81: why not");
    }
}
