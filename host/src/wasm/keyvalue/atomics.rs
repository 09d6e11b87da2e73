//! `atomics` of both drafts, which have little in common. A key has one delivery at a time: nothing
//! that is read here is changed by anybody else before the delivery ends.

use wasmtime::component::Resource;

use super::{Bucket, Cas, keyvalue_draft as first, keyvalue_draft2 as second};
use crate::wasm::drafts::keyvalue_draft::wasi::keyvalue::{
    atomics as first_atomics, store as first_store,
};
use crate::wasm::drafts::keyvalue_draft2::wasi::keyvalue::{atomics, store};
use crate::wasm::store::StoreData;

impl first_atomics::Host for StoreData {
    fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> wasmtime::Result<Result<u64, first_store::Error>> {
        first::given(self.add(&bucket, &key, |number: u64| number.checked_add(delta)))
    }
}

impl atomics::Host for StoreData {
    fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> wasmtime::Result<Result<i64, store::Error>> {
        second::given(self.add(&bucket, &key, |number: i64| number.checked_add(delta)))
    }

    fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), atomics::CasError>> {
        Ok(match self.swap_value(cas, &value)? {
            Ok(Ok(())) => Ok(()),
            Ok(Err(newer)) => Err(atomics::CasError::CasFailed(newer)),
            Err(refused) => Err(atomics::CasError::StoreError(refused.into())),
        })
    }
}

impl atomics::HostCas for StoreData {
    fn new(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Resource<Cas>, store::Error>> {
        let name = self.value_name(&bucket, &key)?;
        let seen = self.session()?.state(&name);
        self.shelve(Cas { name, seen }).map(Ok)
    }

    fn current(
        &mut self,
        cas: Resource<Cas>,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, store::Error>> {
        self.called()?;
        Ok(Ok(self.shelved(&cas)?.seen.clone()))
    }

    fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.unshelve(cas).map(drop)
    }
}
