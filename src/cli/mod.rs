//! What an operator types: `check`, `explain`, `matrix`, and how their answers print.
