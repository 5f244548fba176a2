//! What policies come to, line by line of the contract, by the definition and by the index alike.

mod audit;
mod isolation;
mod lifecycle;
mod peers;
mod ports;
mod services;
mod world;
