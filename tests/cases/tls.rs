//! TLS and tokens, as an operator sets them up.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::{Cli, Host, HostOptions, Place, wait_until};

const READ_AGAIN_MAX: Duration = Duration::from_secs(30);
/// The token `secret`, which may publish.
const TOKENS: &str = r#"
[[tokens]]
name = "shop"
sha256 = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
roles = ["publish"]
"#;

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tls").join(name)
}

/// Puts a certificate where [`options`] names it.
fn put(place: &Place, name: &str) {
    std::fs::copy(pem(&format!("{name}.pem")), place.path().join("cert.pem")).unwrap();
    std::fs::copy(pem(&format!("{name}.key")), place.path().join("key.pem")).unwrap();
}

fn options() -> HostOptions {
    let config = "[http]\ntls-cert = \"cert.pem\"\ntls-key = \"key.pem\"\n";
    HostOptions { config: Some(config.to_owned()), ..HostOptions::default() }
}

fn trusting(host: &Host, name: &str, words: &[&str]) -> Cli {
    host.cli(words).env("TIDEGATE_CA_CERT", &pem(name).display().to_string())
}

#[test]
fn a_host_speaks_tls_and_takes_renewed_certificates() {
    let place = Place::new();
    put(&place, "one");
    let host = place.start_with(&options());
    assert!(host.url().starts_with("https://127.0.0.1:"), "{}", host.announced);
    let publish = ["publish", "order.created", "--key", "o-1", "--data", "{}"];
    let done = trusting(&host, "one.pem", &publish).run().expect_done();
    assert!(done.starts_with("#1 order.created o-1/1  durable "), "{done}");
    let failed = host.cli(&["status"]).run().expect_failed();
    assert!(failed.contains("--ca-cert or TIDEGATE_CA_CERT"), "{failed}");
    let plain = host.url().replace("https://", "http://");
    let failed = Cli::new(&["--url", &plain, "status"]).run().expect_failed();
    assert!(failed.contains("this port speaks TLS: use https://"), "{failed}");

    put(&place, "other");
    host.signal(rustix::process::Signal::HUP);
    wait_until("the new certificate is shown", READ_AGAIN_MAX, || {
        let run = trusting(&host, "other.pem", &["status"]).run();
        if run.code == 0 { Ok(()) } else { Err(run.stderr) }
    });
    trusting(&host, "one.pem", &["status"]).run().expect_failed();
    host.stop();
}

#[test]
fn a_host_that_cannot_speak_tls_as_told_does_not_start() {
    let place = Place::new();
    let missing = place.start_refused_with(&options()).expect_failed();
    let cert = place.path().join("cert.pem").display().to_string();
    assert!(missing.contains(&format!("error: cannot read `{cert}`: No such file")), "{missing}");
    put(&place, "one");
    std::fs::write(place.path().join("key.pem"), "garbage").unwrap();
    let garbage = place.start_refused_with(&options()).expect_failed();
    assert!(garbage.contains("key.pem` holds no private key"), "{garbage}");
    assert!(!place.data().exists(), "nothing is touched");
}

#[test]
fn tokens_are_asked_for_and_read_again_where_they_are_a_file() {
    let place = Place::new();
    let options = HostOptions {
        environment: vec![("TIDEGATE_TOKENS", TOKENS.to_owned())],
        ..HostOptions::default()
    };
    let host = place.start_with(&options);
    let publish = ["publish", "a.b"];
    let refused = host.cli(&publish).run().expect_failed();
    assert!(refused.contains("set TIDEGATE_TOKEN or give --token-file"), "{refused}");
    host.cli(&publish).env("TIDEGATE_TOKEN", "secret").run().expect_done();
    let status = host.cli(&["status"]).env("TIDEGATE_TOKEN", "secret").run().expect_failed();
    assert!(status.contains("`shop` does not have the role `read`"), "{status}");
    host.stop();

    let file = place.path().join("tokens.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write(TOKENS);
    let config = Some("[auth]\ntokens-file = \"tokens.toml\"\n".to_owned());
    let host = place.start_with(&HostOptions { config, ..HostOptions::default() });
    let read_again = |says: &str| {
        host.signal(rustix::process::Signal::HUP);
        wait_until("the file is read again", READ_AGAIN_MAX, || match host.said() {
            said if said.contains(says) => Ok(()),
            said => Err(said),
        });
    };
    write("[[tokens]]\nname = \"shop\"");
    read_again("the old tokens stay: tokens file");
    host.cli(&publish).env("TIDEGATE_TOKEN", "secret").run().expect_done();
    write(&TOKENS.replace("2bb80d", "aaaaaa"));
    read_again("the tokens file is read again");
    host.cli(&publish).env("TIDEGATE_TOKEN", "secret").run().expect_failed();
    host.stop();

    let open = |text: &str| {
        let words = ["run", "--listen", "0.0.0.0:0", "--data"];
        Cli::new(&words).arg(place.data()).env("TIDEGATE_TOKENS", text).within(place.path()).run()
    };
    let plain = open(TOKENS).expect_failed();
    assert!(plain.contains("without `http.tls-cert` and `http.tls-key`"), "{plain}");
    let empty = HostOptions {
        environment: vec![("TIDEGATE_TOKENS", String::new())],
        ..HostOptions::default()
    };
    let empty = place.start_refused_with(&empty).expect_failed();
    assert!(empty.contains("`TIDEGATE_TOKENS`: there is no token"), "{empty}");
}

/// Whoever reads such a file waits until somebody writes to it, and once was deaf to every signal.
#[test]
fn a_file_that_cannot_be_read_to_its_end_keeps_no_host_from_stopping() {
    let place = Place::new();
    put(&place, "one");
    let tokens = place.path().join("tokens.toml");
    std::fs::write(&tokens, TOKENS).unwrap();
    let config = options().config.unwrap() + "[auth]\ntokens-file = \"tokens.toml\"\n";
    let host = place.start_with(&HostOptions { config: Some(config), ..HostOptions::default() });
    std::fs::remove_file(&tokens).unwrap();
    assert!(Command::new("mkfifo").arg(&tokens).status().unwrap().success());
    host.signal(rustix::process::Signal::HUP);
    wait_until("files are read again", READ_AGAIN_MAX, || match host.said() {
        said if said.contains("certificate and key are read again") => Ok(()),
        said => Err(said),
    });
    host.stop();
}
