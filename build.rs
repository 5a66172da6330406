//! Migrations are embedded when the program is compiled: a new file has to cause that.

fn main() {
    println!("cargo::rerun-if-changed=schema");
}
