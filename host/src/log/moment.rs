//! Finding a moment in the log.

use super::Log;
use super::error::ReadError;
use super::shared::blocking;
use crate::event::Position;

impl Log {
    /// The last durable position that the log took before a time, milliseconds since the Unix epoch;
    /// 0: none.
    ///
    /// # Errors
    /// The log or an index cannot be read.
    pub async fn position_before(&self, ms: u64) -> Result<Position, ReadError> {
        let end = self.last_position();
        let shared = self.shared().clone();
        let place = blocking(move || Ok(shared.index.frame_before_time(ms)?)).await?;
        // On from the last frame before the time that the index knows.
        let Some(place) = place else { return Ok(Position(0)) };
        let mut frames = self.frames_from_commit(place.mark.first_commit);
        let mut before = Position(place.mark.first_position.0.saturating_sub(1));
        while before < end {
            let frame = frames.next().await?;
            for heading in frame.headings()? {
                if heading.recorded_ms >= ms {
                    return Ok(before);
                }
                before = heading.position;
            }
        }
        Ok(before)
    }
}
