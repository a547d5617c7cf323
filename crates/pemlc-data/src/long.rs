//! Examples with more tokens than fit.

use crate::answers::Tokens;
use crate::config::OnLong;
use crate::error::RowProblem;

/// What became of an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Fits,
    Truncated,
    Dropped,
}

/// Makes an example fit within `max_length` tokens (prompt and longest answer), or says that it does not.
pub(crate) fn fit(tokens: &mut Tokens, max_length: usize, on_long: OnLong) -> Result<Fate, RowProblem> {
    let answer = tokens.answers.iter().map(Vec::len).max().unwrap_or(0);
    let length = tokens.prompt.len() + answer;
    if length <= max_length {
        return Ok(Fate::Fits);
    }
    match on_long {
        OnLong::Error => Err(RowProblem::TooLong { tokens: length, max_length }),
        OnLong::Drop => Ok(Fate::Dropped),
        OnLong::Truncate => {
            let room = max_length.saturating_sub(answer);
            // Fewer than two tokens cannot hold both ends of a prompt.
            if room < 2 {
                return Err(RowProblem::LongAnswer { tokens: answer, max_length });
            }
            // Instructions stand at the beginning and the question at the end of a prompt: the middle can best be spared.
            let head = room / 2;
            let excess = tokens.prompt.len() - room;
            tokens.prompt.drain(head..head + excess);
            Ok(Fate::Truncated)
        }
    }
}
