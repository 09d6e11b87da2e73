use std::collections::BTreeMap;
use std::future::{pending, ready};
use std::sync::Arc;

use super::*;
use crate::clock::SystemClock;
use crate::config::{Config, Flags};
use crate::log::disk::OsDisk;
use crate::log::{Log, LogOptions, Opened};

/// More than any start here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(folder: &tempfile::TempDir) -> Config {
    let flags = Flags { listen: Some("127.0.0.1:0".to_owned()), ..Flags::default() };
    Config::load_in(folder.path(), None, &BTreeMap::new(), &flags).unwrap()
}

/// Its log, as the next start finds it.
fn open(config: &Config) -> Opened {
    let dir = config.data.join("buses").join("main");
    std::fs::create_dir_all(&dir).unwrap();
    Log::open(Arc::new(OsDisk), &dir, LogOptions::default(), Arc::new(SystemClock::new())).unwrap()
}

/// Such a start once waited for ever, without a word, and no signal ended it.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_log_cannot_be_folded_fails_and_seals_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let log = open(&config).log;
    log.foreign().await.unwrap();
    log.close().await.unwrap();
    let started = tokio::time::timeout(PATIENCE, Serving::start(config.clone(), pending()));
    let failure = started.await.unwrap().err().unwrap();
    assert!(matches!(&failure, ServeError::StateFailed { bus, .. } if bus == "main"), "{failure}");
    assert!(failure.to_string().contains("a record that this version cannot read"), "{failure}");
    assert!(open(&config).clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_told_to_stop_leaves_its_log_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let started = tokio::time::timeout(PATIENCE, Serving::start(config.clone(), ready(())));
    assert!(matches!(started.await.unwrap(), Err(ServeError::Stopped)));
    assert!(open(&config).clean);
    let serving = Serving::start(config, pending()).await.unwrap();
    serving.until(ready(())).await.unwrap();
}

/// The stop once waited for as long as a host function worked for a guest, nine minutes where that was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_holds_its_thread_keeps_no_host_from_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let serving = Serving::start(config.clone(), pending()).await.unwrap();
    let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
    let (begun, begins) = tokio::sync::oneshot::channel();
    drop(serving.pool.tenant("held").spawn(async move {
        begun.send(()).unwrap();
        let _ = held.recv();
    }));
    begins.await.unwrap();
    let stopped = tokio::time::timeout(PATIENCE, serving.until(ready(()))).await.unwrap();
    assert!(matches!(stopped, Err(ServeError::Held)), "{stopped:?}");
    drop(release);
}
