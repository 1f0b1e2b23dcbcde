"""Where images and labels come from: one dispatcher (`sources`), one file a format, pictures, loaders."""
