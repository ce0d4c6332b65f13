//! Request lines without the values that may be secret, for reports.

/// `label` with every value of its query replaced by `***`, and the user name and password of an absolute target.
pub fn redacted(label: &str) -> String {
    let (before, query) = label.split_once('?').map_or((label, None), |(before, query)| (before, Some(query)));
    let mut text = match before.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = authority.rsplit_once('@').map_or(authority.to_owned(), |(_, host)| format!("***@{host}"));
            format!("{scheme}://{host}{path}")
        }
        None => before.to_owned(),
    };
    if let Some(query) = query {
        for (index, item) in query.split('&').enumerate() {
            text.push(if index == 0 { '?' } else { '&' });
            match item.split_once('=') {
                Some((name, _)) => {
                    text.push_str(name);
                    text.push_str("=***");
                }
                None if item.is_empty() => {}
                // A query without names is a value.
                None => text.push_str("***"),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query_and_credentials_are_redacted() {
        for (label, shown) in [
            ("GET /", "GET /"),
            ("GET /a?user=bob&token=x=y", "GET /a?user=***&token=***"),
            ("GET /a?secret", "GET /a?***"),
            ("GET /a?", "GET /a?"),
            ("GET /a?b=1&&c", "GET /a?b=***&&***"),
            ("GET http://bob:pass@host/a@b?c=1", "GET http://***@host/a@b?c=***"),
            ("GET http://host", "GET http://host"),
            ("CONNECT host:443", "CONNECT host:443"),
        ] {
            assert_eq!(redacted(label), shown);
        }
    }
}
