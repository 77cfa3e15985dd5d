"""Made-up speakers whose voice and face share causes."""
