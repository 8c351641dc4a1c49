"""`make compose-test`: docker-compose.yml on a real engine, from nothing to nothing."""
