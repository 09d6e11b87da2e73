//! The commands: arguments in, one call each, text or JSON out.

pub mod build;
pub mod check;
pub mod new;
pub mod test;

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// One document, or one object a line for streams.
    Json,
}
