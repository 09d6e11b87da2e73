use super::*;
use crate::wasm::recognise::ModuleKind;
use crate::wasm::shape::Shape;

const IDENTITY: Digest = Digest([7; 32]);

fn description() -> Description {
    Description { kind: ModuleKind::Stdio, text: false, shape: Shape::default() }
}

fn open(dir: &Path, bytes_max: u64) -> Cache {
    Cache::open(&dir.join("cache"), IDENTITY, bytes_max).unwrap()
}

fn put(cache: &Cache, digest: Digest, code: &[u8]) {
    let unfinished = cache.begin(digest).unwrap();
    unfinished.code_file().write_all(code).unwrap();
    assert_eq!(cache.publish(unfinished, description()).unwrap().code, code);
}

#[test]
fn what_is_published_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 20);
    let digest = Digest::of(b"module");
    assert!(cache.get(digest).is_none());
    put(&cache, digest, b"machine code");
    let entry = cache.get(digest).unwrap();
    assert_eq!((entry.code.as_slice(), entry.description), (&b"machine code"[..], description()));
}

#[test]
fn no_flipped_bit_and_no_cut_is_ever_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 20);
    let digest = Digest::of(b"module");
    put(&cache, digest, &[0x90; 300]);
    let path = cache.path(digest);
    let good = std::fs::read(&path).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bad).unwrap();
        assert!(cache.get(digest).is_none(), "bit {bit}");
        assert!(!path.exists());
    }
    for end in 0..good.len() {
        std::fs::write(&path, &good[..end]).unwrap();
        assert!(cache.get(digest).is_none(), "cut to {end}");
    }
    std::fs::write(&path, [good.as_slice(), &[0]].concat()).unwrap();
    assert!(cache.get(digest).is_none(), "a byte more");
    std::fs::write(&path, &good).unwrap();
    assert!(cache.get(digest).is_some());
}

#[test]
fn an_entry_under_the_name_of_another_module_is_not_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 20);
    let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
    put(&cache, one, b"code of one");
    std::fs::copy(cache.path(one), cache.path(other)).unwrap();
    assert!(cache.get(other).is_none());
}

#[test]
fn code_of_another_engine_is_not_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let digest = Digest::of(b"module");
    put(&open(dir.path(), 1 << 20), digest, b"code");
    let other = Cache::open(&dir.path().join("cache"), Digest([8; 32]), 1 << 20).unwrap();
    assert!(other.get(digest).is_none());
    // The same with the file name out of the way: the first digits of the identity collide.
    let mut near = IDENTITY;
    near.0[31] = 0;
    let near = Cache::open(&dir.path().join("cache"), near, 1 << 20).unwrap();
    assert!(near.get(digest).is_none());
}

#[test]
fn the_oldest_entries_go_and_the_newest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 2_500);
    let digests: Vec<Digest> = (0..4_u8).map(|n| Digest::of(&[n])).collect();
    for (age, digest) in digests.iter().enumerate() {
        put(&cache, *digest, &[0; 800]);
        let age = std::time::Duration::from_secs(1_000 + age as u64);
        let file = File::options().write(true).open(cache.path(*digest)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + age).unwrap();
    }
    let kept: Vec<bool> = digests.iter().map(|digest| cache.path(*digest).exists()).collect();
    assert_eq!(kept, [false, false, true, true]);
    let large = Digest::of(b"large");
    put(&cache, large, &[0; 5_000]);
    assert!(cache.get(large).is_some(), "an entry is not its own victim");
    assert_eq!(cache.entries().len(), 1);
}

#[test]
fn use_keeps_an_entry() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 2_500);
    let (old, older) = (Digest::of(b"old"), Digest::of(b"older"));
    for digest in [older, old] {
        put(&cache, digest, &[0; 800]);
        let file = File::options().write(true).open(cache.path(digest)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }
    assert!(cache.get(older).is_some());
    put(&cache, Digest::of(b"new"), &[0; 800]);
    assert!(cache.path(older).exists() && !cache.path(old).exists());
}

#[test]
fn an_unpublished_entry_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 20);
    drop(cache.begin(Digest::of(b"module")).unwrap());
    assert!(std::fs::read_dir(dir.path().join("cache")).unwrap().next().is_none());
}

#[test]
fn a_link_is_not_a_cache_folder() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", dir.path().join("cache")).unwrap();
    let error = Cache::open(&dir.path().join("cache"), IDENTITY, 1).unwrap_err();
    assert!(matches!(error, CacheError::NotPrivate { .. }), "{error}");
}
