# One question as a JSON object on standard input, one answer on standard output:
# {"ok": true, "value": {...}} or {"ok": false, "error": "..."}. See windows.py, which asks.
$ErrorActionPreference = 'Stop'
[Console]::InputEncoding = [Text.Encoding]::UTF8
[Console]::OutputEncoding = [Text.Encoding]::UTF8

function Find-Mapping($remote) {
    Get-SmbGlobalMapping -ErrorAction SilentlyContinue | Where-Object { $_.RemotePath -ieq $remote } | Select-Object -First 1
}

try {
    $question = [Console]::In.ReadToEnd() | ConvertFrom-Json
    $value = @{}
    switch ($question.do) {
        'look' {
            $value.works = [bool](Test-Path -LiteralPath $question.remote -PathType Container)
        }
        'local' {
            # A server's name may stand for several nodes: that one of its addresses is ours will do.
            $parts = $question.remote.TrimStart('\').Split('\')
            $theirs = [Net.Dns]::GetHostAddresses($parts[0]) | ForEach-Object { $_.IPAddressToString }
            $ours = Get-NetIPAddress | ForEach-Object { $_.IPAddress.Split('%')[0] }
            if ($theirs | Where-Object { $ours -contains $_ }) {
                $share = Get-SmbShare -Name $parts[1] -ErrorAction SilentlyContinue | Select-Object -First 1
                if ($share) { $value.path = $share.Path }
            }
        }
        'map' {
            # A mapping that is there and does not work keeps the old password: make it anew.
            if (Find-Mapping $question.remote) {
                Remove-SmbGlobalMapping -RemotePath $question.remote -Force
            }
            $wanted = @{ RemotePath = $question.remote; RequireIntegrity = $true; RequirePrivacy = [bool]$question.privacy }
            if ($question.username) {
                $password = New-Object Security.SecureString
                $question.password.ToCharArray() | ForEach-Object { $password.AppendChar($_) }
                $wanted.Credential = New-Object Management.Automation.PSCredential($question.username, $password)
            }
            New-SmbGlobalMapping @wanted | Out-Null
        }
        'unmap' {
            if (Find-Mapping $question.remote) {
                Remove-SmbGlobalMapping -RemotePath $question.remote -Confirm:$false
            }
        }
        default { throw "unknown question '$($question.do)'" }
    }
    @{ ok = $true; value = $value } | ConvertTo-Json -Compress
} catch {
    @{ ok = $false; error = $_.Exception.Message } | ConvertTo-Json -Compress
}
