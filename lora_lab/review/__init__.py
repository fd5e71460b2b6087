"""What people bring, looked through: data, adapters and recipes. Nothing of theirs is run."""
