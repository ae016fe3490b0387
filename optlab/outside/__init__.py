"""What is reached for outside of optlab: extras that may be missing, names that users type, settings of peers."""
