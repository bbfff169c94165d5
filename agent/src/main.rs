//! temporary
fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let path = std::path::PathBuf::from(std::env::args().nth(1).unwrap());
    let config = truepeer::config::Config::load(Some(&path)).map_err(|e| anyhow::anyhow!("{e}"))?;
    tokio::runtime::Runtime::new()?.block_on(truepeer::agent::run(config, Some(path)))
}
