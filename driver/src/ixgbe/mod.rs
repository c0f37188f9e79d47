//! Intel 82599 (datasheet 331520): the driver.
