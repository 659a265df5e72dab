//! Moments, and where they come from. Time is passed in, so that tests can turn it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment: microseconds since 1970, UTC. RFC 3339 in the API, BIGINT in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since 1970, UTC.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970, UTC.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, UTC, as JSON Web Tokens count them.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This moment and then `duration`.
    #[must_use]
    pub fn plus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This moment less `duration`.
    #[must_use]
    pub fn minus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long ago `earlier` was; zero where it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The calendar month in UTC, `2026-11`: the period of monthly quotas.
    #[must_use]
    pub fn month(self) -> String {
        self.zoned().strftime("%Y-%m").to_string()
    }

    /// The calendar day in UTC, `2026-11-23`: the period of daily quotas.
    #[must_use]
    pub fn day(self) -> String {
        self.zoned().strftime("%Y-%m-%d").to_string()
    }

    /// The beginning of this moment's day in UTC.
    #[must_use]
    pub fn day_start(self) -> Self {
        self.zoned().start_of_day().map_or(self, |start| Self(start.timestamp().as_microsecond()))
    }

    /// The beginning of this moment's month in UTC.
    #[must_use]
    pub fn month_start(self) -> Self {
        let first = self.zoned().first_of_month().and_then(|first| first.start_of_day());
        first.map_or(self, |start| Self(start.timestamp().as_microsecond()))
    }

    fn zoned(self) -> jiff::Zoned {
        jiff::Timestamp::from_microsecond(self.0).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.zoned().strftime("%Y-%m-%dT%H:%M:%S%.6fZ"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse::<jiff::Timestamp>()
            .map(|moment| Self(moment.as_microsecond()))
            .map_err(|_| serde::de::Error::custom("expected a moment as in RFC 3339, such as 2026-11-23T08:00:00Z"))
    }
}

impl utoipa::ToSchema for Timestamp {}

impl utoipa::PartialSchema for Timestamp {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::DateTime)))
            .description(Some("RFC 3339, UTC, microseconds"))
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn is_written_as_rfc_3339_and_read_back() {
        let moment = Timestamp::from_micros(1_795_402_721_000_042);
        let json = serde_json::to_string(&moment).unwrap();
        assert_eq!(json, "\"2026-11-23T02:58:41.000042Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), moment);
    }

    #[test]
    fn periods_are_those_of_utc() {
        let last_of_the_year = Timestamp::from_micros(1_798_761_599_999_999);
        assert_eq!((last_of_the_year.month(), last_of_the_year.day()), ("2026-12".into(), "2026-12-31".into()));
        assert_eq!(last_of_the_year.day_start().to_string(), "2026-12-31T00:00:00.000000Z");
        assert_eq!(last_of_the_year.month_start().to_string(), "2026-12-01T00:00:00.000000Z");
    }
}
