//! SQLite: schema, iteration writer, merge, queries. The only SQL.
