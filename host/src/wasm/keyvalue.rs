//! `wasi:keyvalue` for handlers: a bucket is a part of the state of the delivery's key, its values
//! stand under `BUCKET/KEY`, and what is written is an effect like any other.
//!
//! Rule: nothing here knows more of state than a [`Session`](super::session::Session) does, so
//! limits, replays and transactions are those of the native interface.

use std::fmt::Display;
use std::str::FromStr;

use wasmtime::component::{HasSelf, Linker, Resource};

use super::context::Denial;
use super::drafts;
use super::shelf::Held;
use super::store::StoreData;
use crate::limits;

/// Bytes of the name of a bucket.
const BUCKET_BYTES_MAX: usize = 64;

/// An open bucket.
#[allow(unreachable_pub, reason = "the generated bindings name it in public")]
pub struct Bucket {
    /// What the names of its values begin with.
    prefix: String,
    /// The ends of pages that were listed: a cursor of the first draft is a number from 1 in here.
    ends: Vec<String>,
}

/// A value as it was seen.
#[allow(unreachable_pub, reason = "the generated bindings name it in public")]
pub struct Cas {
    name: String,
    seen: Option<Vec<u8>>,
}

/// Why something was not done.
enum Refused {
    NoSuchStore,
    AccessDenied,
    Other(String),
}

/// A trap, or what the guest gets.
type Answer<T> = wasmtime::Result<Result<T, Refused>>;
type Pair = (String, Vec<u8>);

impl Held for Bucket {
    fn bytes(&self) -> usize {
        self.prefix.len() + self.ends.iter().map(String::len).sum::<usize>()
    }
}

impl Held for Cas {
    fn bytes(&self) -> usize {
        self.name.len() + self.seen.as_ref().map_or(0, Vec::len)
    }
}

impl From<Denial> for Refused {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::ReadOnly => Self::AccessDenied,
            other => Self::Other(other.to_string()),
        }
    }
}

/// Links both drafts.
pub(super) fn add_to_linker(linker: &mut Linker<StoreData>) -> wasmtime::Result<()> {
    drafts::keyvalue_draft::Imports::add_to_linker::<_, HasSelf<StoreData>>(linker, |data| data)?;
    drafts::keyvalue_draft2::Imports::add_to_linker::<_, HasSelf<StoreData>>(linker, |data| data)
}

impl StoreData {
    fn open_bucket(&mut self, name: &str) -> Answer<Resource<Bucket>> {
        self.called()?;
        let is_name = name.len() <= BUCKET_BYTES_MAX
            && !name.chars().any(|letter| letter == '/' || letter.is_control());
        if !is_name {
            return Ok(Err(Refused::NoSuchStore));
        }
        if self.session()?.context.key().is_none() {
            return Ok(Err(Denial::Unkeyed.into()));
        }
        self.shelve(Bucket { prefix: format!("{name}/"), ends: Vec::new() }).map(Ok)
    }

    /// The name of the state value behind a key. Counts a call into the host.
    fn value_name(&mut self, bucket: &Resource<Bucket>, key: &str) -> wasmtime::Result<String> {
        self.called()?;
        Ok(format!("{}{key}", self.shelved(bucket)?.prefix))
    }

    fn value(&mut self, bucket: &Resource<Bucket>, key: &str) -> wasmtime::Result<Option<Vec<u8>>> {
        let name = self.value_name(bucket, key)?;
        Ok(self.session()?.state(&name))
    }

    fn put(&mut self, name: &str, value: Option<&[u8]>) -> Answer<()> {
        let session = self.session_mut()?;
        let write = session.draft_write(name, value, None);
        Ok(session.write(write).map_err(Refused::from))
    }

    fn put_in(&mut self, bucket: &Resource<Bucket>, key: &str, value: Option<&[u8]>) -> Answer<()> {
        let name = self.value_name(bucket, key)?;
        self.put(&name, value)
    }

    /// One after the other, up to the first that is refused.
    fn put_all(
        &mut self,
        bucket: &Resource<Bucket>,
        pairs: impl ExactSizeIterator<Item = (String, Option<Vec<u8>>)>,
    ) -> Answer<()> {
        if let Err(refused) = check_count(pairs.len()) {
            return Ok(Err(refused));
        }
        for (key, value) in pairs {
            if let Err(refused) = self.put_in(bucket, &key, value.as_deref())? {
                return Ok(Err(refused));
            }
        }
        Ok(Ok(()))
    }

    /// One page of keys after `after`, and the last of them where there may be more.
    fn page(
        &mut self,
        bucket: &Resource<Bucket>,
        after: Option<&str>,
    ) -> wasmtime::Result<(Vec<String>, Option<String>)> {
        self.called()?;
        let prefix = self.shelved(bucket)?.prefix.clone();
        let after = after.map(|key| format!("{prefix}{key}"));
        let most = u32::try_from(limits::LIST_MAX).unwrap_or(u32::MAX);
        let names = self.session()?.state_names(&prefix, after.as_deref(), most);
        let is_full = names.len() >= limits::LIST_MAX;
        let keys: Vec<String> =
            names.iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect();
        let end = keys.last().filter(|_| is_full).cloned();
        Ok((keys, end))
    }

    /// As [`StoreData::page`], with numbers for where to go on.
    fn numbered_page(
        &mut self,
        bucket: &Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Answer<(Vec<String>, Option<u64>)> {
        let after = match cursor.map(|cursor| usize::try_from(cursor).unwrap_or(0)) {
            None => None,
            Some(number) => {
                let ends = &self.shelved(bucket)?.ends;
                match number.checked_sub(1).and_then(|index| ends.get(index)) {
                    Some(end) => Some(end.clone()),
                    None => return Ok(Err(Refused::Other(format!("`{number}` is no cursor")))),
                }
            }
        };
        let (keys, end) = self.page(bucket, after.as_deref())?;
        let Some(end) = end else { return Ok(Ok((keys, None))) };
        let number = self.change(bucket, |bucket| {
            let known = bucket.ends.iter().position(|known| *known == end);
            known.unwrap_or_else(|| {
                bucket.ends.push(end);
                bucket.ends.len() - 1
            })
        })?;
        Ok(Ok((keys, u64::try_from(number + 1).ok())))
    }

    /// Adds to a number in decimal text.
    fn add<N: FromStr + Display + Default>(
        &mut self,
        bucket: &Resource<Bucket>,
        key: &str,
        add: impl FnOnce(N) -> Option<N>,
    ) -> Answer<N> {
        let name = self.value_name(bucket, key)?;
        let number = match self.session()?.state(&name) {
            None => Some(N::default()),
            Some(value) => std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()),
        };
        let Some(number) = number else {
            return Ok(Err(Refused::Other(format!("`{key}` is no number in decimal text"))));
        };
        let Some(sum) = add(number) else {
            return Ok(Err(Refused::Other(format!("`{key}` would be too large a number"))));
        };
        let put = self.put(&name, Some(sum.to_string().as_bytes()))?;
        Ok(put.map(|()| sum))
    }

    fn values(
        &mut self,
        bucket: &Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<Option<Pair>>> {
        if let Err(refused) = check_count(keys.len()) {
            return Ok(Err(refused));
        }
        // What a guest could not hold beside everything else is not copied for it.
        let most = self.session()?.context.limits.memory_bytes / 4;
        let (mut found, mut bytes) = (Vec::new(), 0_usize);
        for key in keys {
            let value = self.value(bucket, &key)?;
            bytes += value.as_ref().map_or(0, Vec::len);
            if bytes > most {
                return Ok(Err(Refused::Other(format!("the values have more than {most} bytes"))));
            }
            found.push(value.map(|value| (key, value)));
        }
        Ok(Ok(found))
    }

    fn swap_value(
        &mut self,
        cas: Resource<Cas>,
        value: &[u8],
    ) -> Answer<Result<(), Resource<Cas>>> {
        self.called()?;
        let Cas { name, seen } = self.unshelve(cas)?;
        let now = self.session()?.state(&name);
        if now != seen {
            return Ok(Ok(Err(self.shelve(Cas { name, seen: now })?)));
        }
        Ok(self.put(&name, Some(value))?.map(Ok))
    }
}

/// Checks that a batch has no more keys than a delivery may write.
fn check_count(keys: usize) -> Result<(), Refused> {
    let most = limits::EFFECTS_MAX;
    if keys > most {
        return Err(Refused::Other(format!("{keys} keys at a time, at most {most} are allowed")));
    }
    Ok(())
}

/// What is the same in both drafts, but for their types.
macro_rules! serve {
    ($draft:ident, $cursor:ty) => {
        mod $draft {
            use super::*;
            use crate::wasm::drafts::$draft::wasi::keyvalue::{batch, store};

            impl From<Refused> for store::Error {
                fn from(refused: Refused) -> Self {
                    match refused {
                        Refused::NoSuchStore => Self::NoSuchStore,
                        Refused::AccessDenied => Self::AccessDenied,
                        Refused::Other(why) => Self::Other(why),
                    }
                }
            }

            type Given<T> = wasmtime::Result<Result<T, store::Error>>;

            pub(super) fn given<T>(answer: Answer<T>) -> Given<T> {
                answer.map(|answer| answer.map_err(store::Error::from))
            }

            impl store::Host for StoreData {
                fn open(&mut self, identifier: String) -> Given<Resource<Bucket>> {
                    given(self.open_bucket(&identifier))
                }
            }

            impl store::HostBucket for StoreData {
                fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Given<Option<Vec<u8>>> {
                    Ok(Ok(self.value(&bucket, &key)?.map(Vec::from)))
                }

                fn set(&mut self, bucket: Resource<Bucket>, key: String, to: Vec<u8>) -> Given<()> {
                    given(self.put_in(&bucket, &key, Some(&to)))
                }

                fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Given<()> {
                    given(self.put_in(&bucket, &key, None))
                }

                fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Given<bool> {
                    Ok(Ok(self.value(&bucket, &key)?.is_some()))
                }

                fn list_keys(
                    &mut self,
                    bucket: Resource<Bucket>,
                    cursor: Option<$cursor>,
                ) -> Given<store::KeyResponse> {
                    let page = <$cursor as Cursor>::page(self, &bucket, cursor);
                    given(page)
                        .map(|page| page.map(|(keys, cursor)| store::KeyResponse { keys, cursor }))
                }

                fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
                    self.unshelve(bucket).map(drop)
                }
            }

            impl batch::Host for StoreData {
                fn get_many(
                    &mut self,
                    bucket: Resource<Bucket>,
                    keys: Vec<String>,
                ) -> Given<Vec<Option<Pair>>> {
                    given(self.values(&bucket, keys))
                }

                fn set_many(&mut self, bucket: Resource<Bucket>, pairs: Vec<Pair>) -> Given<()> {
                    let pairs = pairs.into_iter().map(|(key, value)| (key, Some(value)));
                    given(self.put_all(&bucket, pairs))
                }

                fn delete_many(
                    &mut self,
                    bucket: Resource<Bucket>,
                    keys: Vec<String>,
                ) -> Given<()> {
                    given(self.put_all(&bucket, keys.into_iter().map(|key| (key, None))))
                }
            }
        }
    };
}

/// Where a listing goes on, as a draft says it.
trait Cursor: Sized {
    /// One page after `cursor`, and where the next one begins.
    fn page(
        data: &mut StoreData,
        bucket: &Resource<Bucket>,
        cursor: Option<Self>,
    ) -> Answer<(Vec<String>, Option<Self>)>;
}

impl Cursor for u64 {
    fn page(
        data: &mut StoreData,
        bucket: &Resource<Bucket>,
        cursor: Option<Self>,
    ) -> Answer<(Vec<String>, Option<Self>)> {
        data.numbered_page(bucket, cursor)
    }
}

impl Cursor for String {
    fn page(
        data: &mut StoreData,
        bucket: &Resource<Bucket>,
        cursor: Option<Self>,
    ) -> Answer<(Vec<String>, Option<Self>)> {
        data.page(bucket, cursor.as_deref()).map(Ok)
    }
}

serve!(keyvalue_draft, u64);
serve!(keyvalue_draft2, String);

mod atomics;

#[cfg(test)]
mod tests;
