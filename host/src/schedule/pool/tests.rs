use std::sync::atomic::AtomicU64;
use std::task::Poll;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};

use super::*;

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// For things that are to happen soon, and whose absence is to fail rather than hang.
fn soon<F: Future>(runtime: &Runtime, future: F) -> F::Output {
    let limit = Duration::from_secs(60);
    runtime.block_on(async { tokio::time::timeout(limit, future).await.expect("it never came") })
}

async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn burn(cpu_ns: u64) {
    let start = thread_cpu_ns();
    while thread_cpu_ns() < start + cpu_ns {}
}

#[test]
fn a_task_yields_its_result_and_can_use_timers_of_the_runtime() {
    let runtime = runtime();
    let pool = GuestPool::new(2, runtime.handle()).unwrap();
    let tenant = pool.tenant("a");
    let task = tenant.spawn(async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        7
    });
    assert_eq!(soon(&runtime, task), Ok(7));
}

#[test]
fn a_crowd_of_spinning_tasks_does_not_starve_another_tenant() {
    const STEPS: u64 = 50;
    let runtime = runtime();
    let pool = GuestPool::new(1, runtime.handle()).unwrap();
    let (crowd, lone) = (pool.tenant("crowd"), pool.tenant("lone"));
    let runs = Arc::new(AtomicU64::new(0));
    for _ in 0..100 {
        let runs = Arc::clone(&runs);
        drop(crowd.spawn(async move {
            loop {
                burn(500_000);
                runs.fetch_add(1, Ordering::SeqCst);
                yield_once().await;
            }
        }));
    }
    let counted = Arc::clone(&runs);
    let task = lone.spawn(async move {
        let before = counted.load(Ordering::SeqCst);
        for _ in 0..STEPS {
            yield_once().await;
        }
        counted.load(Ordering::SeqCst) - before
    });
    let runs_meanwhile = soon(&runtime, task).unwrap();
    // Two or three runs are a quantum; in one queue it would be a hundred for each step.
    assert!(runs_meanwhile <= STEPS * 8, "{runs_meanwhile} runs of the crowd in {STEPS} steps");
}

#[test]
fn a_busy_loop_of_short_turns_shares_its_thread_where_it_yields_after_its_slice() {
    let runtime = runtime();
    let pool = GuestPool::new(1, runtime.handle()).unwrap();
    let (busy, other) = (pool.tenant("busy"), pool.tenant("other"));
    let endless = busy.spawn(async {
        loop {
            if slice_is_over() {
                yield_once().await;
            }
        }
    });
    assert_eq!(soon(&runtime, other.spawn(async { 1 })), Ok(1));
    assert!(!endless.is_finished());
    assert_eq!(soon(&runtime, endless.cancel()), None::<()>);
}

#[test]
fn a_panic_stays_within_its_task() {
    let runtime = runtime();
    let pool = GuestPool::new(1, runtime.handle()).unwrap();
    let tenant = pool.tenant("a");
    let panics = tenant.spawn(async {
        yield_once().await;
        panic!("oh {}", "no");
    });
    let told: Result<(), _> = soon(&runtime, panics);
    assert_eq!(told, Err(JoinError::Panicked("oh no".to_owned())));
    assert_eq!(soon(&runtime, tenant.spawn(async { 1 })), Ok(1));
}

#[test]
fn no_wakeup_is_lost() {
    const RINGS: usize = 8;
    const PASSES: u64 = 2_000;
    let runtime = runtime();
    let pool = GuestPool::new(3, runtime.handle()).unwrap();
    let mut joins = Vec::new();
    for ring in 0..RINGS {
        let (here, there) = (pool.tenant("here"), pool.tenant("there"));
        let (ping, mut pinged) = mpsc::channel::<u64>(1);
        let (pong, mut ponged) = mpsc::channel::<u64>(1);
        let forward = async move {
            while let Some(number) = pinged.recv().await {
                if pong.send(number + 1).await.is_err() {
                    return;
                }
            }
        };
        // Half of the rings are woken by threads of the runtime, half by threads of the pool.
        if ring % 2 == 0 {
            runtime.spawn(forward);
        } else {
            drop(there.spawn(forward));
        }
        joins.push(here.spawn(async move {
            let mut number = 0;
            while number < PASSES {
                ping.send(number).await.unwrap();
                number = ponged.recv().await.unwrap();
            }
            number
        }));
    }
    for join in joins {
        assert_eq!(soon(&runtime, join), Ok(PASSES));
    }
}

#[test]
fn closing_a_tenant_ends_its_tasks_and_leaves_others_alone() {
    let runtime = runtime();
    let pool = GuestPool::new(2, runtime.handle()).unwrap();
    let (gone, stays) = (pool.tenant("gone"), pool.tenant("stays"));
    let asleep = gone.spawn(std::future::pending::<()>());
    let spinning = gone.spawn(async {
        loop {
            yield_once().await;
        }
    });
    let (tell, told) = oneshot::channel();
    let waits = stays.spawn(told);
    gone.close();
    assert_eq!(soon(&runtime, asleep), Err(JoinError::Cancelled));
    assert_eq!(soon(&runtime, spinning), Err::<(), _>(JoinError::Cancelled));
    assert_eq!(soon(&runtime, gone.spawn(async {})), Err(JoinError::Cancelled));
    tell.send(5).unwrap();
    assert_eq!(soon(&runtime, waits), Ok(Ok(5)));
}

#[test]
fn a_tenant_that_is_gone_leaves_nothing_behind() {
    let runtime = runtime();
    let pool = GuestPool::new(2, runtime.handle()).unwrap();
    for _ in 0..100 {
        let tenant = pool.tenant("short");
        let join = tenant.spawn(yield_once());
        drop(tenant);
        assert_eq!(soon(&runtime, join), Ok(()));
    }
    let left = || {
        let state = lock(&pool.shared.state);
        state.tenants.values().filter(|tenant| tenant.strong_count() > 0).count()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while left() > 0 {
        assert!(Instant::now() < deadline, "{} tenants are still there", left());
        std::thread::yield_now();
    }
    assert_eq!(pool.shared.tasks.load(Ordering::SeqCst), 0);
}

#[test]
fn shutdown_drops_every_future_and_joins() {
    struct Told(Arc<AtomicU64>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let runtime = runtime();
    let pool = GuestPool::new(2, runtime.handle()).unwrap();
    let tenant = pool.tenant("a");
    let dropped = Arc::new(AtomicU64::new(0));
    for number in 0..20 {
        let told = Told(Arc::clone(&dropped));
        drop(tenant.spawn(async move {
            let _told = told;
            loop {
                if number % 2 == 0 {
                    std::future::pending::<()>().await;
                }
                yield_once().await;
            }
        }));
    }
    pool.shutdown();
    assert_eq!(dropped.load(Ordering::SeqCst), 20);
    assert_eq!(soon(&runtime, tenant.spawn(async {})), Err(JoinError::Cancelled));
}

#[test]
fn a_thread_that_is_held_is_waited_for_no_longer_than_said() {
    let runtime = runtime();
    let pool = GuestPool::new(2, runtime.handle()).unwrap();
    let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
    let (begun, begins) = oneshot::channel();
    let task = pool.tenant("a").spawn(async move {
        begun.send(()).unwrap();
        let _ = held.recv();
    });
    soon(&runtime, begins).unwrap();
    assert!(!pool.shutdown_within(Duration::from_millis(20)));
    // Nor does the end of the pool wait for it.
    drop(pool);
    drop(release);
    let _ = soon(&runtime, task);

    let pool = GuestPool::new(2, runtime.handle()).unwrap();
    drop(pool.tenant("a").spawn(std::future::pending::<()>()));
    assert!(pool.shutdown_within(Duration::from_secs(60)));
}
