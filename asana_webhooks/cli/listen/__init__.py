"""``asana-webhooks listen``: see what Asana sends, while you write the program that receives it."""
