-- The catalog's database beside Dagster's: each has migrations of its own.
create database synqx;
