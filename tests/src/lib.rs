//! truepeer.
