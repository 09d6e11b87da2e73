//! Property tests of `tidegate-sdk` against plain models, in `tests/`.
