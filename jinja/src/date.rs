//! The day on which a template is rendered, and `strftime` of it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A day, midnight of which is the time that templates see. It is written `2024-07-26`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Date {
    year: u32,
    month: u32,
    day: u32,
}

const WEEKDAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl Default for Date {
    /// 26 July 2024, which templates of the Llama family fall back on where nothing tells the date.
    fn default() -> Self {
        Self { year: 2024, month: 7, day: 26 }
    }
}

impl TryFrom<String> for Date {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Date> for String {
    fn from(date: Date) -> Self {
        date.to_string()
    }
}

impl FromStr for Date {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |range| text.get(range).and_then(|digits: &str| digits.parse().ok());
        let shape = text.len() == 10
            && text.bytes().enumerate().all(|(at, byte)| match at {
                4 | 7 => byte == b'-',
                _ => byte.is_ascii_digit(),
            });
        let date = match (number(0..4), number(5..7), number(8..10)) {
            (Some(year), Some(month), Some(day)) if shape => Self { year, month, day },
            _ => return Err(Error::new("a date is written YYYY-MM-DD, such as 2024-07-26")),
        };
        let exists = date.year >= 1000
            && (1..=12).contains(&date.month)
            && (1..=date.days_in_month(date.month)).contains(&date.day);
        if exists { Ok(date) } else { Err(Error::new(format!("there is no day {text}"))) }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl Date {
    fn leaps(year: u32) -> bool {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    }

    fn days_in_month(self, month: u32) -> u32 {
        match month {
            2 => 28 + u32::from(Self::leaps(self.year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// The day of the year, from 1.
    fn day_of_year(self) -> u32 {
        (1..self.month).map(|month| self.days_in_month(month)).sum::<u32>() + self.day
    }

    /// The day of the week, from 0 for Monday.
    fn weekday(self) -> u32 {
        let before = self.year - 1;
        (365 * before + before / 4 - before / 100 + before / 400 + self.day_of_year() - 1) % 7
    }

    /// The year and the number of the week that ISO 8601 counts this day to.
    fn iso_week(self) -> (u32, u32) {
        let weeks_of = |year: u32| {
            let first = Self { year, month: 1, day: 1 }.weekday();
            52 + u32::from(first == 3 || (first == 2 && Self::leaps(year)))
        };
        let week = (self.day_of_year() + 9 - self.weekday()) / 7;
        if week == 0 {
            (self.year - 1, weeks_of(self.year - 1))
        } else if week > weeks_of(self.year) {
            (self.year + 1, 1)
        } else {
            (self.year, week)
        }
    }

    /// Python's `strftime` of this day's midnight, without a time zone.
    ///
    /// # Errors
    /// A directive that is not known.
    pub fn strftime(self, format: &str) -> Result<String> {
        let mut text = String::new();
        let mut rest = format;
        while let Some(start) = rest.find('%') {
            text.push_str(&rest[..start]);
            let flagged = &rest[start + 1..];
            let directive = flagged.trim_start_matches(['-', '_', '0', '^', '#']);
            let flags = &flagged[..flagged.len() - directive.len()];
            let Some(c) = directive.chars().next() else {
                return Err(Error::new("a date's format ends with `%`"));
            };
            let Some(part) = self.part(c, flags.chars().last().filter(|c| *c != '^')) else {
                return Err(Error::new(format!("the directive `%{c}` of dates is not supported")));
            };
            text.push_str(&if flags.contains('^') { part.to_uppercase() } else { part });
            rest = &directive[c.len_utf8()..];
        }
        text.push_str(rest);
        Ok(text)
    }

    fn part(self, directive: char, flag: Option<char>) -> Option<String> {
        let number = |value: u32, width: usize, pad: char| match flag.unwrap_or(pad) {
            '-' => value.to_string(),
            '_' => format!("{value:width$}"),
            ' ' => format!("{value:width$}"),
            _ => format!("{value:0width$}"),
        };
        let weekday = self.weekday();
        let weekday_name = *WEEKDAYS.get(weekday as usize)?;
        let month_name = *MONTHS.get(self.month as usize - 1)?;
        let inner = |format: &str| self.strftime(format).ok();
        Some(match directive {
            'a' => weekday_name[..3].to_owned(),
            'A' => weekday_name.to_owned(),
            'b' | 'h' => month_name[..3].to_owned(),
            'B' => month_name.to_owned(),
            'c' => inner("%a %b %e %H:%M:%S %Y")?,
            'C' => number(self.year / 100, 2, '0'),
            'd' => number(self.day, 2, '0'),
            'D' | 'x' => inner("%m/%d/%y")?,
            'e' => number(self.day, 2, ' '),
            'f' => "000000".to_owned(),
            'F' => inner("%Y-%m-%d")?,
            'G' => number(self.iso_week().0, 4, '0'),
            'g' => number(self.iso_week().0 % 100, 2, '0'),
            'H' | 'M' | 'S' => number(0, 2, '0'),
            'k' => number(0, 2, ' '),
            'I' => number(12, 2, '0'),
            'l' => number(12, 2, ' '),
            'j' => number(self.day_of_year(), 3, '0'),
            'm' => number(self.month, 2, '0'),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            'p' => "AM".to_owned(),
            'P' => "am".to_owned(),
            'r' => "12:00:00 AM".to_owned(),
            'R' => "00:00".to_owned(),
            'T' | 'X' => "00:00:00".to_owned(),
            'u' => number(weekday + 1, 1, '0'),
            'w' => number((weekday + 1) % 7, 1, '0'),
            'U' => number((self.day_of_year() + 6 - (weekday + 1) % 7) / 7, 2, '0'),
            'V' => number(self.iso_week().1, 2, '0'),
            'W' => number((self.day_of_year() + 6 - weekday) / 7, 2, '0'),
            'y' => number(self.year % 100, 2, '0'),
            'Y' => number(self.year, 4, '0'),
            'z' | 'Z' => String::new(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}
