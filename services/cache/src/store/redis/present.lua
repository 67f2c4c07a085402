-- Whether an entry of this epoch is there.
local EPOCH_AT, FLAGS_AT = 2, 1 -- offsets in an entry, see frame.rs
local function present(epoch)
  local at = call('GETRANGE', ENTRY, EPOCH_AT, EPOCH_AT + 7)
  return #at == 8 and struct.unpack('>d', at) == epoch
end
