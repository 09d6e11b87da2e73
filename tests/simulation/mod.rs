//! Hosts on a disk that forgets, tears, fails and fills up, judged by the oracle.
//!
//! A *trace* is a fixed list of steps (`trace.rs`) that a client takes on a host (`world.rs`). It is
//! run with a fault at one of its disk operations; the host that is found after that is judged, goes
//! on to the end of the trace, and is judged again.

pub(crate) mod trace;
pub(crate) mod witness;
pub(crate) mod world;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidegate::log::disk::sim::{Crash, Fault, SimDisk};
use tokio::runtime::Runtime;

use crate::oracle::{Case, History, Journal, Lost, Rule, Verdict};
use trace::Step;
use world::{COUNTING, Gone, Place, World};

/// The writer looks at the free space no more often, in log time.
const SPACE_LOOK_MS: u64 = 1100;

/// The runtime of all hosts, whichever test they are of: what they share lives as long as it does.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

/// How long a disk stays full that a step waits for.
const FULL_MAX: Duration = Duration::from_millis(500);

/// The client: what it does, how far it is, and what it was told.
pub(crate) struct Client {
    steps: Vec<Step>,
    at: usize,
    pub(crate) journal: Journal,
}

/// How a part of a trace ended.
struct Ran {
    /// What the log held, as far as it was durable.
    seen: Option<History>,
    /// The host, if it is still there.
    world: Option<World>,
    /// Why the client could not go on.
    why: Option<Gone>,
}

impl Ran {
    fn gone(seen: Option<History>) -> Self {
        Self { seen, world: None, why: Some(Gone::Refuses) }
    }
}

impl Client {
    pub(crate) fn new(steps: Vec<Step>) -> Self {
        Self { steps, at: 0, journal: Journal::default() }
    }

    /// Takes the steps that are left. A host that fails on the way is given back as it is.
    async fn go_on(&mut self, mut world: World, place: &Place) -> Ran {
        while let Some(step) = self.steps.get(self.at).cloned() {
            let taken = match step {
                Step::Restart => {
                    let (disk, seen) = (world.disk.clone(), world.history());
                    let is_sealed = world.stop().await;
                    let mut opened = World::open(&disk, place).await;
                    if opened.is_err() && world::is_full(&disk) {
                        // A start may need a little space.
                        disk.heal();
                        opened = World::open(&disk, place).await;
                    }
                    match opened {
                        Ok(opened) => {
                            world = opened;
                            if is_sealed { Ok(()) } else { Err(Gone::Refuses) }
                        }
                        Err(_) => return Ran::gone(Some(seen)),
                    }
                }
                step => {
                    let (disk, clock) = (world.disk.clone(), Arc::clone(&place.clock));
                    let taken = self.take(step, &mut world, place);
                    tokio::select! {
                        taken = taken => taken,
                        never = space_comes_back(&disk, &clock) => match never {},
                    }
                }
            };
            if let Err(why) = taken {
                return Ran { seen: Some(world.history()), world: Some(world), why: Some(why) };
            }
            self.at += 1;
        }
        Ran { seen: Some(world.history()), world: Some(world), why: None }
    }

    async fn take(&mut self, step: Step, world: &mut World, place: &Place) -> Result<(), Gone> {
        match step {
            Step::Publish(events) => {
                events.iter().for_each(|event| self.journal.sends(event));
                let positions = world.publish(&events).await.map_err(|_| Gone::Refuses)?;
                for (event, position) in events.iter().zip(positions) {
                    self.journal.acknowledged(event["id"].as_str().unwrap_or_default(), position);
                }
            }
            Step::Pass(ms) => world.pass(ms),
            Step::Rest => world.rest().await?,
            Step::Mend => {
                place.witness.fixed.store(true, Ordering::SeqCst);
                world.rest().await?;
                world.redrive_all().await.map_err(|_| Gone::Refuses)?;
                world.rest().await?;
                place.witness.fixed.store(false, Ordering::SeqCst);
            }
            Step::Rewind => {
                // What works now must work when it is done again: else a rebuild counts less.
                place.witness.fixed.store(true, Ordering::SeqCst);
                world.rest().await?;
                world.rewind().await.map_err(|_| Gone::Refuses)?;
                world.late().await.map_err(|_| Gone::Refuses)?;
                world.rest().await?;
                place.witness.fixed.store(false, Ordering::SeqCst);
            }
            Step::Restart => {}
        }
        Ok(())
    }

    /// After a crash: everything that the trace has sent so far is sent again, whether it was
    /// acknowledged or not.
    async fn again(&mut self, world: &mut World, place: &Place) -> Result<(), Gone> {
        for step in self.steps.iter().take(self.at + 1).cloned().collect::<Vec<_>>() {
            if matches!(step, Step::Publish(_)) {
                self.take(step, world, place).await?;
            }
        }
        Ok(())
    }
}

/// Lets a full disk have space again after a while: some of what waits for it has a client waiting.
async fn space_comes_back(disk: &SimDisk, clock: &world::Turned) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(FULL_MAX).await;
        if world::is_full(disk) {
            disk.heal();
            clock.pass(SPACE_LOOK_MS);
        }
    }
}

/// What happens to a host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// What goes wrong, if anything.
    pub(crate) fault: Option<Fault>,
    /// How the disk is found after it.
    pub(crate) crash: Crash,
    /// Whether what a start has shown must survive a power cut right after it.
    pub(crate) twice: bool,
}

impl Plan {
    /// A power cut at an operation.
    pub(crate) fn power_off(at: u64, crash: Crash) -> Self {
        Self { fault: Some(Fault::PowerOffAt(at)), crash, twice: false }
    }
}

/// Runs a trace under a plan. Sound: no promise was broken.
pub(crate) async fn run(steps: &[Step], plan: Plan) -> Verdict {
    let (place, disk) = (Place::new(), SimDisk::new());
    if let Some(fault) = plan.fault {
        disk.inject(fault);
    }
    let mut client = Client::new(steps.to_vec());
    let ran = match World::open(&disk, &place).await {
        Ok(world) => client.go_on(world, &place).await,
        Err(_) => Ran::gone(None),
    };
    if plan.fault.is_none()
        && let Some(world) = ran.world
    {
        if let Some(why) = ran.why {
            return gone(why);
        }
        return finish(&mut client, world, ran.seen.as_ref(), &place).await;
    }
    let found = disk.crash(plan.crash);
    if let Some(world) = ran.world {
        world.keep_slots(&place);
        tokio::spawn(world.bury());
    }
    let (found, seen) = if plan.twice {
        match shown_and_cut(&found, &place).await {
            Ok((found, shown)) => (found, Some(shown)),
            Err(verdict) => return verdict,
        }
    } else {
        (found, ran.seen)
    };
    comes_back(&mut client, &found, seen.as_ref(), &place).await
}

/// Runs a trace while from some operation on the disk has no space left; then it has again. The host
/// must neither fail nor be started again.
pub(crate) async fn run_full(steps: &[Step], from: u64) -> (Verdict, u64) {
    let (place, disk) = (Place::new(), SimDisk::new());
    let mut client = Client::new(steps.to_vec());
    let mut refused = 0;
    let mut world = match open(&disk, &place).await {
        Ok(world) => world,
        Err(verdict) => return (verdict, refused),
    };
    disk.inject(Fault::FullFrom(from.max(disk.operations() + 1)));
    loop {
        let ran = client.go_on(world, &place).await;
        let Some(after) = ran.world else { return (gone(Gone::Refuses), refused) };
        world = after;
        match ran.why {
            None => break,
            Some(Gone::Restless) => return (gone(Gone::Restless), refused),
            Some(Gone::Refuses) => {}
        }
        // Refused: reads go on, and with space again so does everything.
        refused += 1;
        let history = world.history();
        let verdict = case(&client, &history, &world).after_recovery(ran.seen.as_ref());
        if !verdict.is_sound() {
            return (verdict, refused);
        }
        disk.heal();
        world.pass(SPACE_LOOK_MS);
    }
    disk.heal();
    world.pass(SPACE_LOOK_MS);
    (finish(&mut client, world, None, &place).await, refused)
}

/// Recovery, and a power cut at an operation of it, again and again, each a bit later; then a host
/// comes back for good.
pub(crate) async fn run_nested(steps: &[Step], at: u64, seed: u64) -> Verdict {
    let (place, disk) = (Place::new(), SimDisk::new());
    disk.inject(Fault::PowerOffAt(at));
    let mut client = Client::new(steps.to_vec());
    let ran = match World::open(&disk, &place).await {
        Ok(world) => client.go_on(world, &place).await,
        Err(_) => Ran::gone(None),
    };
    if let Some(world) = ran.world {
        world.keep_slots(&place);
        tokio::spawn(world.bury());
    }
    let mut found = disk.crash(Crash::Random(seed));
    for cut in 1.. {
        let before = found.operations();
        found.inject(Fault::PowerOffAt(before + cut));
        if let Ok((bus, ..)) = world::open_bus(&found, &place) {
            let is_through = found.operations() - before < cut;
            drop(bus);
            if is_through {
                break;
            }
        }
        found = found.crash(Crash::Random(seed + cut));
    }
    comes_back(&mut client, &found.crash(Crash::LosesAll), ran.seen.as_ref(), &place).await
}

/// How many operations a trace takes where nothing fails.
pub(crate) async fn operations(steps: &[Step]) -> u64 {
    let (place, disk) = (Place::new(), SimDisk::new());
    let mut client = Client::new(steps.to_vec());
    let world = World::open(&disk, &place).await.unwrap();
    if let Some(world) = client.go_on(world, &place).await.world {
        world.bury().await;
    }
    disk.operations()
}

/// A start, and a power cut right after it that loses all that was not synced.
async fn shown_and_cut(found: &SimDisk, place: &Place) -> Result<(SimDisk, History), Verdict> {
    let world = open(found, place).await?;
    let shown = world.history();
    let found = found.crash(Crash::LosesAll);
    tokio::spawn(world.bury());
    Ok((found, shown))
}

async fn open(found: &SimDisk, place: &Place) -> Result<World, Verdict> {
    World::open(found, place).await.map_err(|error| {
        let mut verdict = Verdict::default();
        verdict.add(Rule::Starts, error.to_string());
        verdict
    })
}

/// A host starts on what a crash left, is judged, finishes the trace and is judged again.
pub(crate) async fn comes_back(
    client: &mut Client,
    found: &SimDisk,
    seen: Option<&History>,
    place: &Place,
) -> Verdict {
    let mut world = match open(found, place).await {
        Ok(world) => world,
        Err(verdict) => return verdict,
    };
    let history = world.history();
    let verdict = case(client, &history, &world).after_recovery(seen);
    if !verdict.is_sound() {
        tokio::spawn(world.bury());
        return verdict;
    }
    if let Err(why) = client.again(&mut world, place).await {
        return gone(why);
    }
    let ran = client.go_on(world, place).await;
    match ran.world.filter(|_| ran.why.is_none()) {
        Some(world) => finish(client, world, Some(&history), place).await,
        None => gone(ran.why.unwrap_or(Gone::Refuses)),
    }
}

fn gone(why: Gone) -> Verdict {
    let mut verdict = Verdict::default();
    match why {
        Gone::Refuses => verdict.add(Rule::Starts, "the host failed on a disk that does not"),
        Gone::Restless => verdict.add(Rule::Delivered, "the host never comes to rest"),
    }
    verdict
}

/// Nothing is repaired here.
static LOST: Lost = Lost::NOTHING;

fn case<'a>(client: &'a Client, history: &'a History, world: &World) -> Case<'a> {
    Case {
        journal: &client.journal,
        history,
        log_id: world.log_id,
        counting: &COUNTING,
        lost: &LOST,
    }
}

/// Brings everything to an end that can come to one, and judges it; then once more after a stop and
/// a start, which must change nothing.
async fn finish(
    client: &mut Client,
    mut world: World,
    seen: Option<&History>,
    place: &Place,
) -> Verdict {
    let at_rest = async {
        client.again(&mut world, place).await?;
        world.pass(trace::AFTER_ALL_MS);
        client.take(Step::Mend, &mut world, place).await?;
        world.rest().await
    };
    if let Err(why) = at_rest.await {
        return gone(why);
    }
    let history = world.history();
    let verdict = case(client, &history, &world).at_rest(seen, &world.shown());
    let disk = world.disk.clone();
    if !world.stop().await || !verdict.is_sound() {
        return if verdict.is_sound() { gone(Gone::Refuses) } else { verdict };
    }
    let world = match open(&disk, place).await {
        Ok(world) => world,
        Err(verdict) => return verdict,
    };
    if let Err(why) = world.rest().await {
        return gone(why);
    }
    let now = world.history();
    let verdict = case(client, &now, &world).at_rest(Some(&history), &world.shown());
    world.stop().await;
    verdict
}
