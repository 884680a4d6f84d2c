//! The command line from outside: the binary itself, its exit codes and its texts.

mod broken;
mod check;
mod program;
mod role;
mod standalone;
