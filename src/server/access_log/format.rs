//! The format of the access log: text with Gunicorn's atoms, such as `%(h)s`, or the name of a form. A format is parsed
//! when a setting is checked and when a log opens.
//!
//! Only the conversion `s` exists, since every atom is a string in Gunicorn. There `%(D)d` fails at the first request.

use std::sync::Arc;

/// The form of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text with atoms.
    Atoms(Arc<[Piece]>),
    /// `json`: one object.
    Json,
    /// `readable`: columns for people at a terminal.
    Readable,
}

/// One part of a format.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Literal text.
    Text(String),
    /// An atom of one letter.
    Atom(char),
    /// `%({name}i)s`: the environ key of a request field.
    RequestField(String),
    /// `%({name}o)s`: the name of a response field.
    ResponseField(String),
    /// `%({name}e)s`: a key of the environ.
    Environ(String),
    /// `%({name}n)s`: a note of the server's, under this key of the environ.
    Note(&'static str),
}

/// The atoms of one letter. `rmeinheld.access_log.ATOMS` describes them.
const ATOMS: &str = "hlutrmUqHsbBfaTMDLp";

/// The notes, each with its key in the environ. `rmeinheld.access_log.NOTES` describes them.
const NOTES: [(&str, &str); 3] =
    [("request_id", "rmeinheld.request_id"), ("trace_id", "rmeinheld.trace_id"), ("span_id", "rmeinheld.span_id")];

/// Characters of a faulty directive that an error quotes.
const QUOTED: usize = 12;

/// Reads a format.
///
/// # Errors
/// A sentence that names the part that is neither text, an atom nor `%%`.
pub fn parse(format: &str) -> Result<Format, String> {
    match format {
        "json" => Ok(Format::Json),
        "readable" => Ok(Format::Readable),
        _ => split(format).map(|pieces| Format::Atoms(pieces.into())),
    }
}

/// Splits a format into text and atoms.
fn split(format: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, directive)) = rest.find('%').map(|at| rest.split_at(at)) {
        text.push_str(before);
        if let Some(after) = directive.strip_prefix("%%") {
            text.push('%');
            rest = after;
            continue;
        }
        let (name, after) = split_atom(directive).ok_or_else(|| {
            let found: String = directive.chars().take(QUOTED).collect();
            format!("the access log format '{format}' has '{found}' where %(atom)s or %% is expected")
        })?;
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(atom(name).ok_or_else(|| unknown(format, name))?);
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// The name of the atom that `directive` begins with, and the text after it.
fn split_atom(directive: &str) -> Option<(&str, &str)> {
    let (name, after) = directive.strip_prefix("%(")?.split_once(')')?;
    let after = after.strip_prefix('s')?;
    (!name.contains('(')).then_some((name, after))
}

fn atom(name: &str) -> Option<Piece> {
    if let Some((inner, kind)) = name.strip_prefix('{').and_then(|name| name.rsplit_once('}')) {
        if inner.is_empty() || inner.contains(['{', '}']) {
            return None;
        }
        return match kind {
            "i" => {
                let key = inner.to_ascii_uppercase().replace('-', "_");
                let plain = key == "CONTENT_TYPE" || key == "CONTENT_LENGTH";
                Some(Piece::RequestField(if plain { key } else { format!("HTTP_{key}") }))
            }
            "o" => Some(Piece::ResponseField(inner.to_owned())),
            "e" => Some(Piece::Environ(inner.to_owned())),
            "n" => NOTES.iter().find(|(name, _)| *name == inner).map(|(_, key)| Piece::Note(key)),
            _ => None,
        };
    }
    let mut characters = name.chars();
    match (characters.next(), characters.next()) {
        (Some(letter), None) if ATOMS.contains(letter) => Some(Piece::Atom(letter)),
        _ => None,
    }
}

fn unknown(format: &str, name: &str) -> String {
    let known: Vec<String> = ATOMS.chars().map(String::from).collect();
    let known = known.join(" ");
    format!(
        "the access log format '{format}' has an unknown atom '%({name})s'; \
         known are {known} and {{name}}i {{name}}o {{name}}e {{request_id}}n {{trace_id}}n {{span_id}}n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_text_and_atoms() {
        let pieces = split("%(h)s 100%% %({x-y}i)s%({Content-Type}i)s%({X}o)s%({wsgi.url_scheme}e)s").unwrap();
        let expected = [
            Piece::Atom('h'),
            Piece::Text(" 100% ".into()),
            Piece::RequestField("HTTP_X_Y".into()),
            Piece::RequestField("CONTENT_TYPE".into()),
            Piece::ResponseField("X".into()),
            Piece::Environ("wsgi.url_scheme".into()),
        ];
        assert_eq!(pieces, expected);
        assert_eq!(split("").unwrap(), []);
        assert_eq!(split("%({span_id}n)s").unwrap(), [Piece::Note("rmeinheld.span_id")]);
    }

    #[test]
    fn a_name_is_a_form_of_its_own() {
        assert_eq!(parse("json"), Ok(Format::Json));
        assert_eq!(parse("readable"), Ok(Format::Readable));
        assert_eq!(parse("JSON"), Ok(Format::Atoms([Piece::Text("JSON".into())].into())));
    }

    #[test]
    fn an_unknown_atom_or_another_conversion_is_named() {
        for (format, named) in [
            ("%(Z)s", "unknown atom '%(Z)s'"),
            ("%(hh)s", "unknown atom '%(hh)s'"),
            ("%()s", "unknown atom '%()s'"),
            ("%({x}z)s", "unknown atom '%({x}z)s'"),
            ("%({x}n)s", "unknown atom '%({x}n)s'"),
            ("%({}i)s", "unknown atom '%({}i)s'"),
            ("%({a}b}i)s", "unknown atom '%({a}b}i)s'"),
            ("5% of it is done", "has '% of it is d' where"),
            ("%(h)d", "has '%(h)d' where"),
            ("%((h))s", "has '%((h))s' where"),
            ("100%", "has '%' where"),
        ] {
            assert!(parse(format).unwrap_err().contains(named), "{format}");
        }
    }
}
