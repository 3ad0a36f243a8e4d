"""A small HTTP/1.1 client on the event loop: general ones cost 3 to 70 times more in a data path."""
