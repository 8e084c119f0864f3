"""The page of a posterior over two features: scenes, pictures, where it is mounted."""
