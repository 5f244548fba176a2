//! The node: its links and routes, and the loop that keeps the kernel at what the policies say.
