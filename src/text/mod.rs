//! Text in and out: names that are not known, templates, what is safe to show.

pub mod escape;
pub mod suggest;
pub mod template;
