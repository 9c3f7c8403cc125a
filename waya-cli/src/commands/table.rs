//! A table of recipients: a CSV file whose columns fill the `{{column}}`s of a text.

use std::path::Path;

use waya_proto::v1::PersonalMessage;

use crate::error::CliError;
use crate::exit_code::ExitCode;

/// What the column with the recipients may be called, in any case; else it is the first one.
const NUMBER: [&str; 6] = ["number", "phone", "recipient", "nomor", "no", "telepon"];
/// More than this is no list of recipients.
const LARGEST: u64 = 64 << 20;

/// One message for each row.
pub fn messages(path: &Path, text: &str) -> Result<Vec<PersonalMessage>, CliError> {
    let refused = |message: String| {
        CliError::new(ExitCode::Refused, message, "the first line names the columns; one of them is number")
    };
    let unreadable = |error: std::io::Error| refused(format!("cannot read {}: {error}", path.display()));
    if std::fs::metadata(path).map_err(unreadable)?.len() > LARGEST {
        return Err(refused(format!("{} is larger than 64 MiB", path.display())));
    }
    let content = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(&content, text).map_err(|problem| refused(format!("{}: {problem}", path.display())))
}

fn parse(content: &str, text: &str) -> Result<Vec<PersonalMessage>, String> {
    // Spreadsheets put a byte order mark in front, and semicolons where commas are for decimals.
    let content = content.trim_start_matches('\u{feff}');
    let head = content.lines().next().unwrap_or_default();
    let delimiter = [b';', b'\t', b','].into_iter().max_by_key(|mark| head.bytes().filter(|b| b == mark).count());
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter.unwrap_or(b','))
        .trim(csv::Trim::All)
        .from_reader(content.as_bytes());
    let columns: Vec<String> = reader.headers().map_err(|error| error.to_string())?.iter().map(str::to_owned).collect();
    let number = columns.iter().position(|name| NUMBER.contains(&name.to_lowercase().as_str())).unwrap_or(0);
    let mut messages = Vec::new();
    for (row, record) in reader.records().enumerate() {
        let record = record.map_err(|error| format!("row {}: {error}", row + 2))?;
        let recipient = record.get(number).unwrap_or_default().to_owned();
        if recipient.is_empty() {
            return Err(format!("row {}: the recipient is empty", row + 2));
        }
        // What a spreadsheet made of a long number is another number.
        if recipient.contains(['E', 'e']) && recipient.contains('+') {
            let words = "is what a spreadsheet made of a number; format that column as text";
            return Err(format!("row {}: {recipient} {words}", row + 2));
        }
        let message = fill(text, &columns, &record).map_err(|name| {
            format!("the text names {{{{{name}}}}}, and there is no such column; there are {}", columns.join(", "))
        })?;
        messages.push(PersonalMessage { recipient, message, ..PersonalMessage::default() });
    }
    if messages.is_empty() { Err("there are no rows".to_owned()) } else { Ok(messages) }
}

/// Fills the columns in; the name of one that is not there is the error.
fn fill(text: &str, columns: &[String], record: &csv::StringRecord) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, behind)) = after.split_once("}}") else { break };
        filled.push_str(before);
        let name = name.trim();
        let column =
            columns.iter().position(|column| column.eq_ignore_ascii_case(name)).ok_or_else(|| name.to_owned())?;
        filled.push_str(record.get(column).unwrap_or_default());
        rest = behind;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(content: &str, text: &str) -> Result<Vec<(String, String)>, String> {
        let rows = parse(content, text)?;
        Ok(rows.into_iter().map(|row| (row.recipient, row.message)).collect())
    }

    #[test]
    fn columns_fill_the_text_row_by_row() {
        let table = "\u{feff}nama;nomor;total\r\n\"Budi; Jaya\";6281200000002;10.000\r\nSiti;6281200000003;5\r\n";
        assert_eq!(
            rows(table, "Halo {{nama}}, {{ Total }} {sisa}").unwrap(),
            [
                ("6281200000002".to_owned(), "Halo Budi; Jaya, 10.000 {sisa}".to_owned()),
                ("6281200000003".to_owned(), "Halo Siti, 5 {sisa}".to_owned()),
            ]
        );
        assert_eq!(rows("628,x\n629,y\n", "Hai").unwrap(), [("629".to_owned(), "Hai".to_owned())]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_row() {
        for (table, word) in [
            ("number\n", "no rows"),
            ("number,name\n628,a\n,b\n", "row 3"),
            ("number\n6.28147E+12\n", "spreadsheet"),
            ("number,name\n628,a,b\n", "row 2"),
        ] {
            let error = rows(table, "Hai").unwrap_err();
            assert!(error.contains(word), "{table}: {error}");
        }
        assert!(rows("number\n628\n", "Hai {{nama}}").unwrap_err().contains("nama"));
    }
}
