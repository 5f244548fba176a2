use anyhow::Result;
pub fn clean(path: &std::path::Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(path);
    Ok(())
}
