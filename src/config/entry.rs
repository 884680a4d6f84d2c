//! `[admin]`: who may come in.

use super::vendor::Secret;

/// Who may use the admin API.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Entry {
    /// Whoever can connect: it listens where other machines cannot.
    #[default]
    Local,
    /// Whoever can connect, and an operator has said so.
    Anybody,
    /// Whoever has this.
    Token(Secret),
}

impl Entry {
    /// A shorter token can be guessed.
    const SHORTEST: usize = 16;

    /// What may be a token. What is wrong with it does not show it.
    pub fn token(text: &str) -> Result<Secret, String> {
        if text.len() < Self::SHORTEST {
            return Err(format!("has {} characters", text.len()));
        }
        if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err("has a blank in it, or a character that no header may have".into());
        }
        Ok(Secret::new(text))
    }
}
