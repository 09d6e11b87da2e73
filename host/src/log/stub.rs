//! stub
#![allow(missing_docs, unused, clippy::all)]
use super::*; use super::error::*; use super::options::*;
use crate::event::*; use crate::clock::Clock; use super::disk::Disk; use super::record::*;
use std::sync::Arc; use std::path::Path; use std::future::Future; use uuid::Uuid; use std::time::Duration;
#[derive(Clone)] pub struct Log;
pub struct CutReport; impl std::fmt::Display for CutReport { fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { todo!() } }
pub struct Opened { pub log: Log, pub log_id: Uuid, pub new_empty: bool, pub epoch: u32, pub clean: bool, pub cut: Option<CutReport>, pub last_commit: CommitNumber, pub last_position: Position }
#[derive(Debug, Clone)] pub struct Publish { pub event: NewEvent, pub expected: Option<KeySequence> }
#[derive(Debug, Clone)] pub struct Appended { pub position: Position, pub sequence: KeySequence, pub duplicate: bool }
pub struct EffectsPermit; 
pub struct CommitTicket; 
#[derive(Debug, Clone, Copy)] pub struct Committed { pub commit: CommitNumber, pub first_position: Option<Position>, pub recorded_ms: u64 }
impl Future for CommitTicket { type Output = Result<Committed, AppendError>; fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> { todo!() } }
pub struct FrameReader; impl FrameReader { pub async fn next(&mut self) -> Result<Arc<Frame>, ReadError> { todo!() } }
#[derive(Debug, Clone, Copy, PartialEq, Eq)] pub enum LogState { Open, StorageFull, ReadOnly }
pub struct LogStats { pub state: LogState, pub appended_events: u64, pub epoch: u32, pub last_commit: CommitNumber, pub segments: u64, pub bytes: u64, pub free_bytes: u64, pub last_append: Duration, pub dedup_ids: u64, pub dedup_since_ms: Option<u64> }
impl Log {
 pub fn open(_: Arc<dyn Disk>, _: &Path, _: LogOptions, _: Arc<dyn Clock>) -> Result<Opened, OpenError> { todo!() }
 pub async fn ingest(&self, _: Vec<Publish>) -> Result<Vec<Appended>, AppendError> { todo!() }
 pub async fn reserve(&self, _: InstanceId, _: usize) -> Result<EffectsPermit, AppendError> { todo!() }
 pub fn commit(&self, _: EffectsPermit, _: DeliveryCommit) -> CommitTicket { todo!() }
 pub fn control(&self, _: Vec<ControlRecord>) -> CommitTicket { todo!() }
 pub fn forward(&self, _: Vec<NewEvent>, _: ControlRecord) -> CommitTicket { todo!() }
 pub fn durable(&self) -> CommitNumber { todo!() } pub fn last_position(&self) -> Position { todo!() }
 pub fn now_ms(&self) -> u64 { todo!() } pub fn id(&self) -> Uuid { todo!() }
 pub fn frames_from_commit(&self, _: CommitNumber) -> FrameReader { todo!() }
 pub fn frames_from_position(&self, _: Position) -> FrameReader { todo!() }
 pub async fn event(&self, _: Position) -> Result<Option<Arc<Event>>, ReadError> { todo!() }
 pub async fn key_positions(&self, _: &Key, _: Position, _: usize) -> Result<Vec<Position>, ReadError> { todo!() }
 pub async fn position_before(&self, _: u64) -> Result<Position, ReadError> { todo!() }
 pub fn stats(&self) -> LogStats { todo!() }
 pub async fn failed(&self) -> LogFailure { todo!() }
 pub async fn close(&self) -> Result<(), AppendError> { todo!() }
}
