local make_room
