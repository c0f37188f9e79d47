//! Both TCPs over a bad network in virtual time, through the same names that an application uses.
#![forbid(unsafe_code)]

mod floods;
mod streams;
mod tails;
