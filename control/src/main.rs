//! controld: hands out stacks to hosts, and shows what is true of them.

fn main() {}
